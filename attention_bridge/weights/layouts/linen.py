"""`linen`: the variables of the JAX mirror as a Flax Linen module, `flax.nnx.bridge.to_linen(cls, ...)`.

The paths equal the NNX paths, inside collections named after the kind of variable: `params`, `batch_stats`, ...
A name does not depend on its collection, so the prefix `params` is optional. In `linen.scan`, one tensor holds all
`layers`, as Linen's `nn.scan` makes them.
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.jax_attention import DROPPED, JAX_ATTENTION
from attention_bridge.weights.layouts.jax_attention import SPELLINGS as NNX_SPELLINGS

SPELLINGS = (*NNX_SPELLINGS, ("params.{rest}", "{rest}"))

LINEN = Layout("linen", rules=JAX_ATTENTION.rules, spellings=SPELLINGS, dropped=DROPPED)

LINEN_SCAN = Layout(
    "linen.scan", rules=JAX_ATTENTION.rules, spellings=SPELLINGS, dropped=DROPPED, stacked="layers"
)
