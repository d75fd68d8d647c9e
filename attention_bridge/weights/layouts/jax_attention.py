"""`jax_attention`: the paths of the Flax NNX mirror's state, joined by dots.

Linear kernels are (in, out). A parameter outside linear, norm, embedding and convolution layers has the same name and
axes in both mirrors. In an NNX state that is saved directly, the names of variables end in `.value`.
"""

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.rule import Rule

SPELLINGS = (("{rest}.value", "{rest}"),)
DROPPED = (Dropped("{path}rngs.{rest}", "the state of a random generator"),)

JAX_ATTENTION = Layout(
    "jax_attention",
    rules=(
        Rule("{path}{name}norm.scale", "{path}{name}norm.weight"),
        Rule("{path}{name}_embedding.embedding", "{path}{name}_embedding.weight"),
        Rule("{path}kernel", "{path}weight", "i o -> o i"),
        Rule("{path}kernel", "{path}weight", "length i o -> o i length"),
        Rule("{path}kernel", "{path}weight", "height width i o -> o i height width"),
        Rule("{rest}", "{rest}"),
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
)
