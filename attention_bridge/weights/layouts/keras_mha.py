"""`keras.mha` and `keras.gqa`: Keras' `MultiHeadAttention` and `GroupQueryAttention`, by the paths of their weights.

| a path is                                       | such as                                        |
|-------------------------------------------------|------------------------------------------------|
| that of a variable, with slashes or dots        | `encoder/attention/query/kernel`               |
| that in a file, a place in the model and a number | `layers/multi_head_attention/query_dense/vars/0` |

What stands before the projection is kept, with dots. `_query_dense` is the name of older versions of Keras 3, and of
`GroupQueryAttention`. A file holds the variables of other layers, too: they are carried as they are, by their paths.

On the way from the hub `axes={"d": key_dim}` says how heads are cut, and `v` is `value_dim` where that is another.
`sliding_window` and attention over several axes have no tensors, so nothing here can tell of them: `transfer` from a
layer and the conversion of a `.keras` file refuse them.

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
    """Names in a file; `start` is that of projections in a layer whose path does not say of what class it is."""
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
