"""`haiku.mha`: Haiku's `MultiHeadAttention`, by module and parameter names, such as `query.w`.

https://dm-haiku.readthedocs.io/en/latest/api.html#multiheadattention
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.rule import Rule

HAIKU_MHA = Layout(
    "haiku.mha",
    rules=(
        Rule("{path}{query,key,value,linear}.w", "{path}{q,k,v,out}_proj.weight", "i o -> o i"),
        Rule("{path}{query,key,value,linear}.b", "{path}{q,k,v,out}_proj.bias"),
    ),
)
