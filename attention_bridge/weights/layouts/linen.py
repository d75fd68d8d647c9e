"""`linen`: the variables of the JAX mirror as a Flax Linen module, `flax.nnx.bridge.to_linen(cls, ...)`.

The paths are those of NNX, inside collections named after the kind of variable: `params`, `batch_stats`, ...
A name does not depend on its collection, so the `params` in front may be there or not. `linen.scan` is the same with
`layers` in one tensor, as Linen's `nn.scan` makes them.
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.jax_attention import DROPPED, JAX_ATTENTION
from attention_bridge.weights.layouts.jax_attention import SPELLINGS as NNX_SPELLINGS

SPELLINGS = (*NNX_SPELLINGS, ("params.{rest}", "{rest}"))

LINEN = Layout("linen", rules=JAX_ATTENTION.rules, spellings=SPELLINGS, dropped=DROPPED)

LINEN_SCAN = Layout(
    "linen.scan", rules=JAX_ATTENTION.rules, spellings=SPELLINGS, dropped=DROPPED, stacked="layers"
)
