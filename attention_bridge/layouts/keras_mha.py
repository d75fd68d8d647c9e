"""`keras.mha` and `keras.gqa`: Keras' `MultiHeadAttention` and `GroupQueryAttention`, by the paths of their weights.

A path is that of a Keras variable, `query/kernel`, with dots or slashes between its names, behind those of the layers
around it. On the way from the hub `axes={"d": head_dim}` says how heads are cut.

https://keras.io/api/layers/attention_layers/
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.rule import Rule

RULES = (
    Rule("{path}{query,key,value}.kernel", "{path}{q,k,v}_proj.weight", "e h d -> (h d) e"),
    Rule("{path}{query,key,value}.bias", "{path}{q,k,v}_proj.bias", "h d -> (h d)"),
    Rule("{path}attention_output.kernel", "{path}out_proj.weight", "h d e -> e (h d)"),
    Rule("{path}attention_output.bias", "{path}out_proj.bias"),
)

SPELLINGS = tuple(
    (f"{before}{part}/{{name}}", f"{path}{part}.{{name}}")
    for part in ("query", "key", "value", "attention_output")
    for before, path in (("", ""), ("{rest}/", "{rest}."))
)

KERAS_MHA = Layout("keras.mha", rules=RULES, spellings=SPELLINGS)
KERAS_GQA = Layout("keras.gqa", rules=RULES, spellings=SPELLINGS)
