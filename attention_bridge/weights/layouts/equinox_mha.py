"""`equinox.mha`: `equinox.nn.MultiheadAttention`, by leaf paths; it has no biases by default.

https://docs.kidger.site/equinox/api/nn/attention/
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.rule import Rule

EQUINOX_MHA = Layout(
    "equinox.mha",
    rules=(
        Rule("{path}{query,key,value}_proj.{name}", "{path}{q,k,v}_proj.{name}"),
        Rule("{path}output_proj.{name}", "{path}out_proj.{name}"),
    ),
)
