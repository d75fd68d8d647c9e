"""`flax.nnx.mha` and `flax.linen.mha`: Flax's own attention layers, `nnx.MultiHeadAttention` and its Linen equivalent.

Their kernels have a separate axis of heads; conversion from the canonical layout needs `axes={"d": head_dim}`.

https://flax.readthedocs.io/en/stable/api_reference/flax.nnx/nn/attention.html
"""

from attention_bridge.weights.layout import Layout, Refused
from attention_bridge.weights.layouts.jax_attention import DROPPED
from attention_bridge.weights.layouts.jax_attention import SPELLINGS as NNX_SPELLINGS
from attention_bridge.weights.layouts.linen import SPELLINGS
from attention_bridge.weights.rule import Rule

RULES = (
    Rule("{path}{query,key,value}.kernel", "{path}{q,k,v}_proj.weight", "e h d -> (h d) e"),
    Rule("{path}{query,key,value}.bias", "{path}{q,k,v}_proj.bias", "h d -> (h d)"),
    Rule("{path}out.kernel", "{path}out_proj.weight", "h d e -> e (h d)"),
    Rule("{path}out.bias", "{path}out_proj.bias"),
)
REFUSED = tuple(
    Refused(name, "a per-head LayerNorm without a bias, which no class of the mirrors has")
    for name in ("{path}query_ln.scale", "{path}key_ln.scale")
)

FLAX_NNX_MHA = Layout("flax.nnx.mha", rules=RULES, refused=REFUSED, spellings=NNX_SPELLINGS, dropped=DROPPED)
FLAX_LINEN_MHA = Layout("flax.linen.mha", rules=RULES, refused=REFUSED, spellings=SPELLINGS, dropped=DROPPED)
