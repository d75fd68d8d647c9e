"""Where things stand: schemes that any dot-product class can hold as its `position`."""

from jax_attention.positions.protocol import place as place
from jax_attention.positions.rotary import RotaryEmbedding as RotaryEmbedding
from jax_attention.positions.rotary import rotary_frequencies as rotary_frequencies
from jax_attention.positions.rotary import rotate as rotate
