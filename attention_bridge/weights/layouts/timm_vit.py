"""Layouts of timm's Vision Transformers, of one class or one kind of feed-forward network each.

| layout          | class of timm                                                                          |
|-----------------|----------------------------------------------------------------------------------------|
| `timm.vit`      | `VisionTransformer`, also of DeiT III, DINOv2, CLIP and SigLIP                         |
| `timm.vit_glu`  | `VisionTransformer` with a gated feed-forward network, whose gate comes first (DINOv2) |
| `timm.deit`     | `VisionTransformerDistilled`                                                           |
| `timm.beit`     | `Beit`; keys have no biases                                                            |
| `timm.eva`      | `Eva`, also of DINOv3; keys have no biases                                             |
| `timm.eva_glu`  | `Eva` with a gated feed-forward network, whose two inputs are two tensors (DINOv3)     |

Query, key and value projections are fused, in this order.

https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/vision_transformer.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Dropped, Layout, Unused
from attention_bridge.weights.layouts.hf_vit import without_biases
from attention_bridge.weights.rule import Rule

LAYER, OURS = "blocks.{n}.", "layers.{n}."
SCALES = "{attention,ffn}_output_norm.factors"
POOLING = "pooling.attention."

ATTENTION_POOLING = (
    Rule("attn_pool.latent", POOLING + "probes", "1 n e -> n e"),
    Rule("attn_pool.q.{name}", POOLING + "attention.q_proj.{name}"),
    Rule("attn_pool.kv.weight", POOLING + "attention.{k,v}_proj.weight", "(two o) i -> two o i"),
    Rule("attn_pool.kv.bias", POOLING + "attention.{k,v}_proj.bias", "(two o) -> two o"),
    Rule("attn_pool.proj.{name}", POOLING + "attention.out_proj.{name}"),
    Rule("attn_pool.norm.{name}", POOLING + "ffn_norm.{name}"),
    Rule("attn_pool.mlp.fc{1,2}.{name}", POOLING + "ffn.{up,down}_proj.{name}"),
)
REGISTERS = Rule("reg_token", "patches.registers", "1 n e -> n e")
SHARED = (
    Rule("cls_token", "patches.class_token", "1 1 e -> e"),
    Rule("pos_embed", "patches.positions", "1 n e -> n e"),
    Rule("patch_embed.proj.{name}", "patches.patch_proj.{name}"),
    Rule("norm_pre.{name}", "embedding_norm.{name}"),
    Rule(LAYER + "norm{1,2}.{name}", OURS + "{attention,ffn}_norm.{name}"),
    Rule(LAYER + "attn.qkv.weight", OURS + "attention.{q,k,v}_proj.weight", "(three o) i -> three o i"),
    Rule(LAYER + "attn.proj.{name}", OURS + "attention.out_proj.{name}"),
    Rule("norm.{name}", "final_norm.{name}"),
    Rule("fc_norm.{name}", "pooling.norm.{name}"),
    *ATTENTION_POOLING,
    Rule("head.{name}", "head.{name}"),
)
BIAS = Rule(LAYER + "attn.qkv.bias", OURS + "attention.{q,k,v}_proj.bias", "(three o) -> three o")
LAYER_SCALE = Rule(LAYER + "ls{1,2}.gamma", OURS + SCALES)
GAMMAS = Rule(LAYER + "gamma_{1,2}", OURS + SCALES)
FFN = Rule(LAYER + "mlp.fc{1,2}.{name}", OURS + "ffn.{up,down}_proj.{name}")
HEADS = tuple(
    Unused(f"{name}.{{rest}}", "a classifier, not part of the encoder") for name in ("head", "head_dist")
)

TIMM_VIT = Layout("timm.vit", rules=(*SHARED, REGISTERS, BIAS, LAYER_SCALE, FFN), unused=HEADS)

TIMM_VIT_GLU = Layout(
    "timm.vit_glu",
    rules=(
        *SHARED,
        REGISTERS,
        BIAS,
        LAYER_SCALE,
        Rule(LAYER + "mlp.fc1.weight", OURS + "ffn.{gate,up}_proj.weight", "(two o) i -> two o i"),
        Rule(LAYER + "mlp.fc1.bias", OURS + "ffn.{gate,up}_proj.bias", "(two o) -> two o"),
        Rule(LAYER + "mlp.fc2.{name}", OURS + "ffn.down_proj.{name}"),
    ),
    unused=HEADS,
)

TIMM_DEIT = replace(
    TIMM_VIT,
    name="timm.deit",
    rules=(*SHARED, Rule("dist_token", "patches.registers", "1 n e -> n e"), BIAS, FFN),
)

SEPARATE_BIASES = Rule(LAYER + "attn.{q,v}_bias", OURS + "attention.{q,v}_proj.bias")
TABLE = "relative_position_bias_table"

TIMM_BEIT = without_biases(
    Layout(
        "timm.beit",
        rules=(
            *SHARED,
            SEPARATE_BIASES,
            GAMMAS,
            FFN,
            Rule(LAYER + "attn." + TABLE, OURS + "attention.position.position_bias"),
            Rule("rel_pos_bias." + TABLE, "position.position_bias"),
        ),
        dropped=(
            Dropped(LAYER + "attn.relative_position_index", "rows of the table, which are recomputed"),
            Dropped("rel_pos_bias.relative_position_index", "rows of the table, which are recomputed"),
        ),
        unused=HEADS,
    ),
    "k",
)

GATED_FFN = (
    Rule(LAYER + "mlp.fc1_{g,x}.{name}", OURS + "ffn.{gate,up}_proj.{name}"),
    Rule(LAYER + "mlp.fc2.{name}", OURS + "ffn.down_proj.{name}"),
)

TIMM_EVA, TIMM_EVA_GLU = (
    without_biases(
        Layout(
            name,
            rules=(*SHARED, REGISTERS, SEPARATE_BIASES, GAMMAS, *ffn),
            dropped=(Dropped("rope.{rest}", "the rotary angles, which are recomputed"),),
            unused=HEADS,
        ),
        "k",
    )
    for name, ffn in (("timm.eva", (FFN,)), ("timm.eva_glu", GATED_FFN))
)
