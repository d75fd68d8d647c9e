"""`x_transformers.attention`: the `Attention` of x-transformers, without the options that add parameters.

https://github.com/lucidrains/x-transformers
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.rule import Rule

X_TRANSFORMERS = Layout(
    "x_transformers.attention",
    rules=(Rule("{path}to_{q,k,v,out}.weight", "{path}{q,k,v,out}_proj.weight"),),
)
