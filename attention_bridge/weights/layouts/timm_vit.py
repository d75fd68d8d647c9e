"""`timm.vit`: the `VisionTransformer` of timm with a class token; its query, key and value projections are fused.

https://github.com/huggingface/pytorch-image-models/blob/main/timm/models/vision_transformer.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.rule import Rule

TIMM_VIT = Layout(
    "timm.vit",
    rules=(
        Rule("cls_token", "patches.class_token", "1 1 e -> e"),
        Rule("pos_embed", "patches.positions", "1 n e -> n e"),
        Rule("patch_embed.proj.{name}", "patches.patch_proj.{name}"),
        Rule("blocks.{n}.norm{1,2}.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        Rule(
            "blocks.{n}.attn.qkv.weight",
            "layers.{n}.attention.{q,k,v}_proj.weight",
            "(three o) i -> three o i",
        ),
        Rule("blocks.{n}.attn.qkv.bias", "layers.{n}.attention.{q,k,v}_proj.bias", "(three o) -> three o"),
        Rule("blocks.{n}.attn.proj.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule("blocks.{n}.mlp.fc{1,2}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
        Rule("norm.{name}", "final_norm.{name}"),
        Rule("head.{name}", "head.{name}"),
    ),
)
