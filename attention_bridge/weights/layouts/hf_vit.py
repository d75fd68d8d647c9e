"""`hf.vit`: Hugging Face `ViTModel` and `ViTForImageClassification`, by their names on disk or in memory.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/vit/modeling_vit.py
"""

from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.rule import Rule

LAYER = "encoder.layer.{n}."

HF_VIT = Layout(
    "hf.vit",
    rules=(
        Rule("embeddings.cls_token", "patches.class_token", "1 1 e -> e"),
        Rule("embeddings.position_embeddings", "patches.positions", "1 n e -> n e"),
        Rule("embeddings.patch_embeddings.projection.{name}", "patches.patch_proj.{name}"),
        Rule(LAYER + "layernorm_{before,after}.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        Rule(
            LAYER + "attention.{attention.query,attention.key,attention.value,output.dense}.{name}",
            "layers.{n}.attention.{q,k,v,out}_proj.{name}",
        ),
        Rule(LAYER + "{intermediate,output}.dense.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
        Rule("layernorm.{name}", "final_norm.{name}"),
        Rule("pooler.dense.{name}", "pooler.{name}"),
        Rule("classifier.{name}", "head.{name}"),
    ),
    unused=tuple(
        Unused(name, "a task head, not part of the encoder")
        for name in ("classifier.{rest}", "decoder.{rest}", "embeddings.mask_token", "pooler.{rest}")
    ),
    spellings=(
        ("vit.{rest}", "{rest}"),
        ("layers.{n}.layernorm_{rest}", "encoder.layer.{n}.layernorm_{rest}"),
        ("layers.{n}.attention.q_proj.{name}", "encoder.layer.{n}.attention.attention.query.{name}"),
        ("layers.{n}.attention.k_proj.{name}", "encoder.layer.{n}.attention.attention.key.{name}"),
        ("layers.{n}.attention.v_proj.{name}", "encoder.layer.{n}.attention.attention.value.{name}"),
        ("layers.{n}.attention.o_proj.{name}", "encoder.layer.{n}.attention.output.dense.{name}"),
        ("layers.{n}.mlp.fc1.{name}", "encoder.layer.{n}.intermediate.dense.{name}"),
        ("layers.{n}.mlp.fc2.{name}", "encoder.layer.{n}.output.dense.{name}"),
    ),
)
