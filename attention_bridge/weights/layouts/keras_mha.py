"""`keras.mha` and `keras.gqa`: Keras' `MultiHeadAttention` and `GroupQueryAttention`, by the paths of their weights.

| path                                             | example                                          |
|--------------------------------------------------|--------------------------------------------------|
| of a variable, with slashes or dots              | `encoder/attention/query/kernel`                 |
| in a file, with the layer and a variable number  | `layers/multi_head_attention/query_dense/vars/0` |

The path before the projection is kept, with dots. `_query_dense` is the name in older versions of Keras 3 and in
`GroupQueryAttention`. Variables of other layers in a file are copied unchanged, with their paths.

Conversion from the canonical layout needs `axes={"d": key_dim}`, and `v`, the `value_dim`, if it differs.
`sliding_window` and attention over several axes have no tensors, so a layout cannot detect them: `transfer` from a
layer and the conversion of a `.keras` file raise an error for them.

https://keras.io/api/layers/attention_layers/
"""

from attention_bridge.weights.layout import Dropped, Layout, Refused
from attention_bridge.weights.rule import Rule

PARTS = {"query": "query", "key": "key", "value": "value", "gate": "gate", "attention_output": "output"}
LEAVES = {"kernel": "0", "bias": "1"}

RULES = (
    Rule("{path}{query,key}.kernel", "{path}{q,k}_proj.weight", "e h d -> (h d) e"),
    Rule("{path}{query,key}.bias", "{path}{q,k}_proj.bias", "h d -> (h d)"),
    Rule("{path}{value,gate}.kernel", "{path}{v,gate}_proj.weight", "e h v -> (h v) e"),
    Rule("{path}{value,gate}.bias", "{path}{v,gate}_proj.bias", "h v -> (h v)"),
    Rule("{path}attention_output.kernel", "{path}out_proj.weight", "h v e -> e (h v)"),
    Rule("{path}attention_output.bias", "{path}out_proj.bias", "e -> e"),
)
SPELLINGS = tuple(
    (f"{{path}}{start}{attribute}_dense.vars.{number}", f"{{path}}{part}.{leaf}")
    for part, attribute in PARTS.items()
    for start in ("", "_")
    for leaf, number in LEAVES.items()
)
REFUSED = tuple(
    Refused(
        f"{{path}}{start}{attribute}_dense.vars.{{name}}",
        "a projection of attention has a kernel and a bias, and more only if it is quantised",
    )
    for attribute in PARTS.values()
    for start in ("", "_")
)
DROPPED = (
    Dropped("optimizer.{rest}", "the state of the optimizer"),
    Dropped("{path}seed_generator.vars.{name}", "the state of a random generator"),
)


def _files(start: str) -> tuple[tuple[str, str], ...]:
    """Pairs (rule name, file name); `start` is the prefix of projections in a layer whose path hides its class."""
    starts = (
        ("{path}grouped_query_attention{name}.", "_"),
        ("{path}multi_head_attention{name}.", ""),
        ("{path}", start),
    )
    return tuple(
        (f"{layer}{part}.{leaf}", f"{layer}{'_' if part == 'gate' else start}{attribute}_dense.vars.{number}")
        for layer, start in starts
        for part, attribute in PARTS.items()
        for leaf, number in LEAVES.items()
    )


KERAS_MHA, KERAS_GQA = (
    Layout(
        name,
        rules=RULES,
        spellings=SPELLINGS,
        refused=REFUSED,
        dropped=DROPPED,
        slashes=True,
        files=_files(start),
        carried="{path}vars.{name}",
    )
    for name, start in (("keras.mha", ""), ("keras.gqa", "_"))
)
