"""`hf.dinov2`: Hugging Face `Dinov2Model` and `Dinov2WithRegistersModel`, with classifiers.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/dinov2/modeling_dinov2.py
"""

from attention_bridge.weights.layout import Dropped, Layout, Unused
from attention_bridge.weights.layouts.hf_vit import IN_MEMORY
from attention_bridge.weights.rule import Rule

LAYER, OURS = "encoder.layer.{n}.", "layers.{n}."
FFN = LAYER + "mlp.fc{1,2}.{name}"  # of files without a gated feed-forward network

HF_DINOV2 = Layout(
    "hf.dinov2",
    rules=(
        Rule("embeddings.cls_token", "patches.class_token", "1 1 e -> e"),
        Rule("embeddings.register_tokens", "patches.registers", "1 n e -> n e"),
        Rule("embeddings.position_embeddings", "patches.positions", "1 n e -> n e"),
        Rule("embeddings.patch_embeddings.projection.{name}", "patches.patch_proj.{name}"),
        Rule(LAYER + "norm{1,2}.{name}", OURS + "{attention,ffn}_norm.{name}"),
        Rule(
            LAYER + "attention.{attention.query,attention.key,attention.value,output.dense}.{name}",
            OURS + "attention.{q,k,v,out}_proj.{name}",
        ),
        Rule(LAYER + "layer_scale{1,2}.lambda1", OURS + "{attention,ffn}_output_norm.factors"),
        Rule(FFN, OURS + "ffn.{up,down}_proj.{name}"),
        Rule(LAYER + "mlp.weights_in.weight", OURS + "ffn.{gate,up}_proj.weight", "(two o) i -> two o i"),
        Rule(LAYER + "mlp.weights_in.bias", OURS + "ffn.{gate,up}_proj.bias", "(two o) -> two o"),
        Rule(LAYER + "mlp.weights_out.{name}", OURS + "ffn.down_proj.{name}"),
        Rule("layernorm.{name}", "final_norm.{name}"),
    ),
    dropped=(Dropped("embeddings.mask_token", "the embedding of masked patches in pretraining"),),
    unused=(Unused("classifier.{rest}", "a task head, not part of the encoder"),),
    spellings=(
        ("dinov2.{rest}", "{rest}"),
        ("dinov2_with_registers.{rest}", "{rest}"),
        *((f"encoder.layer.{{n}}.{theirs[11:]}", ours) for theirs, ours in IN_MEMORY),
    ),
)
