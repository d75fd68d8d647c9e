"""`hf.vit`: Hugging Face `ViTModel` and its relatives `DeiTModel`, `ViTMAEModel` and `IJepaModel`, with classifiers.

The names are those on disk or in memory.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/vit/modeling_vit.py
"""

from collections.abc import Iterable
from dataclasses import replace

from attention_bridge.weights.layout import Layout, Unused, ZeroBias
from attention_bridge.weights.rule import Rule

LAYER = "encoder.layer.{n}."


def without_biases(layout: Layout, projections: Iterable[str]) -> Layout:
    """The layout of files whose attention has no biases of these projections, such as `qkv`."""
    zero = tuple(
        ZeroBias(f"{path}_proj.bias", f"{path}_proj.weight", "attention has no such bias")
        for path in (f"layers.{{n}}.attention.{name}" for name in projections)
    )
    return replace(layout, zero_biases=(*layout.zero_biases, *zero)) if zero else layout


IN_MEMORY = tuple(
    (f"layers.{{n}}.attention.{theirs}_proj.{{name}}", f"encoder.layer.{{n}}.attention.{ours}.{{name}}")
    for theirs, ours in {
        "q": "attention.query",
        "k": "attention.key",
        "v": "attention.value",
        "o": "output.dense",
    }.items()
)

HF_VIT = Layout(
    "hf.vit",
    rules=(
        Rule("embeddings.cls_token", "patches.class_token", "1 1 e -> e"),
        Rule("embeddings.distillation_token", "patches.registers", "1 n e -> n e"),
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
        for name in (
            "classifier.{rest}",
            "cls_classifier.{rest}",
            "distillation_classifier.{rest}",
            "decoder.{rest}",
            "embeddings.mask_token",
            "pooler.{rest}",
        )
    ),
    spellings=(
        *((f"{model}.{{rest}}", "{rest}") for model in ("vit", "deit", "ijepa")),
        ("layers.{n}.layernorm_{rest}", "encoder.layer.{n}.layernorm_{rest}"),
        *IN_MEMORY,
        ("layers.{n}.mlp.fc1.{name}", "encoder.layer.{n}.intermediate.dense.{name}"),
        ("layers.{n}.mlp.fc2.{name}", "encoder.layer.{n}.output.dense.{name}"),
    ),
)
