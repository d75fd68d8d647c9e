"""`torch.mha`: `torch.nn.MultiheadAttention`; its projections are packed, or separate where `kdim` or `vdim` differ.

The learned key and value of `add_bias_kv=True` are the memory of `PersistentMemoryAttention`. `add_zero_attn=True` has
no tensors, so a layout cannot detect it: its key and value of zeros are not converted.

https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html
"""

from collections.abc import Iterator

from attention_bridge.weights.layout import Layout, Shapes
from attention_bridge.weights.rule import Rule


def misfits(shapes: Shapes) -> Iterator[tuple[str, str]]:
    """Weights of impossible shapes: the heads together, and the outputs, have `embed_dim` features."""
    for name, shape in shapes.items():
        path, dot, last = name.rpartition(".")
        if last == "in_proj_weight" and shape[0] != 3 * shape[1]:
            yield name, "(3 embed_dim, embed_dim)"
        elif last == "q_proj_weight" and shape[0] != shape[1]:
            yield name, "(embed_dim, embed_dim)"
        elif last in ("k_proj_weight", "v_proj_weight"):
            query = shapes.get(f"{path}{dot}q_proj_weight", shape)
            if shape[0] != query[0]:
                yield name, f"({query[0]}, ...), as many rows as for the queries"
        elif last == "weight" and path.endswith("out_proj") and shape[0] != shape[1]:
            yield name, "(embed_dim, embed_dim)"


def packed_rules(theirs: str = "", ours: str = "") -> tuple[Rule, ...]:
    """The rules for attention with packed projections.

    Args:
        theirs: module path in the outside layout, with the last dot; empty for none.
        ours: module path in the canonical layout, with the last dot; empty for none.
    """
    theirs, ours = "{path}" + theirs, "{path}" + ours
    return (
        Rule(theirs + "in_proj_weight", ours + "{q,k,v}_proj.weight", "(three e) i -> three e i"),
        Rule(theirs + "in_proj_bias", ours + "{q,k,v}_proj.bias", "(three e) -> three e"),
        Rule(theirs + "out_proj.{name}", ours + "out_proj.{name}"),
    )


TORCH_MHA = Layout(
    "torch.mha",
    rules=(
        *packed_rules(),
        Rule("{path}{q,k,v}_proj_weight", "{path}{q,k,v}_proj.weight"),
        Rule("{path}bias_k", "{path}memory_key", "1 1 e -> 1 e"),
        Rule("{path}bias_v", "{path}memory_value", "1 1 e -> 1 e"),
    ),
    misfits=misfits,
)
