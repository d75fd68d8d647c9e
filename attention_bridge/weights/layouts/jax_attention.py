"""`jax_attention`: the paths of the Flax NNX mirror's state, joined by dots.

Linear kernels are (in, out). A parameter that belongs to no linear, norm, embedding or convolution is the same
in both mirrors. Behind the name of a variable a state that is saved as it is has `.value`.
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
