"""`hf.swin`: Hugging Face `SwinModel` and `SwinForImageClassification`.

The names are those on disk or in memory. In the patterns, `{n}` is a stage, `{name}` a layer of it and `{rest}` a
parameter. The merging of patches after a stage is the first step of the next stage here.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/swin/modeling_swin.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Dropped, Layout, Unused, ZeroBias
from attention_bridge.weights.rule import Rule

MOST_STAGES = 9
LAYER, OURS = "encoder.layers.{n}.blocks.{name}.", "stages.{n}.layers.{name}."
WINDOWS = OURS + "attention.attention."
_STAGES = range(MOST_STAGES)
MERGING = f"encoder.layers.{{{','.join(map(str, _STAGES[:-1]))}}}.downsample."
MERGED = f"stages.{{{','.join(map(str, _STAGES[1:]))}}}.embedding."
TABLE = "relative_position_bias_table"

IN_MEMORY = tuple(
    (f"{LAYER}{theirs}.{{rest}}", f"{LAYER}{ours}.{{rest}}")
    for theirs, ours in {
        "attention.q_proj": "attention.self.query",
        "attention.k_proj": "attention.self.key",
        "attention.v_proj": "attention.self.value",
        "attention.o_proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }.items()
)

EMBEDDINGS = (
    Rule("embeddings.patch_embeddings.projection.{name}", "stages.0.embedding.patch_proj.{name}"),
    Rule("embeddings.norm.{name}", "stages.0.embedding.norm.{name}"),
    Rule("embeddings.position_embeddings", "stages.0.embedding.positions", "1 n e -> n e"),
)
LAYERS = (
    Rule(LAYER + "layernorm_{before,after}.{rest}", OURS + "{attention,ffn}_norm.{rest}"),
    Rule(LAYER + "attention.self.{query,key,value}.{rest}", WINDOWS + "{q,k,v}_proj.{rest}"),
    Rule(LAYER + "attention.output.dense.{rest}", WINDOWS + "out_proj.{rest}"),
    Rule(LAYER + "{intermediate,output}.dense.{rest}", OURS + "ffn.{up,down}_proj.{rest}"),
)
BETWEEN = (
    Rule(MERGING + "norm.{name}", MERGED + "norm.{name}"),
    Rule(MERGING + "reduction.{name}", MERGED + "merge_proj.{name}"),
    Rule("layernorm.{name}", "final_norm.{name}"),
)
OTHERS = (
    Dropped("embeddings.mask_token", "the embedding of masked patches in pretraining"),
    Dropped(LAYER + "attention.self.relative_position_index", "rows of the table, which are recomputed"),
)
HEADS = tuple(
    Unused(f"{name}.{{rest}}", "a task head, not part of the encoder")
    for name in ("classifier", "decoder", "hidden_states_norms")
)

HF_SWIN = Layout(
    "hf.swin",
    rules=(
        *EMBEDDINGS,
        *LAYERS,
        Rule(LAYER + f"attention.self.{TABLE}", WINDOWS + "position_bias"),
        *BETWEEN,
    ),
    dropped=OTHERS,
    unused=HEADS,
    spellings=(
        ("swin.{rest}", "{rest}"),
        *IN_MEMORY,
        (LAYER + f"attention.relative_position_bias.{TABLE}", LAYER + f"attention.self.{TABLE}"),
    ),
)


def without_biases(layout: Layout, projections: str, attention: str = WINDOWS) -> Layout:
    """The layout of files whose attention, at this path, has no biases of these projections, such as `qkv`."""
    zero = tuple(
        ZeroBias(
            f"{attention}{name}_proj.bias", f"{attention}{name}_proj.weight", "attention has no such bias"
        )
        for name in projections
    )
    return replace(layout, zero_biases=(*layout.zero_biases, *zero))
