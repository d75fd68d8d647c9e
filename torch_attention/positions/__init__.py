"""Where things stand: schemes that any dot-product class can hold as its `position`."""

from torch_attention.positions.protocol import place as place
from torch_attention.positions.rotary import RotaryEmbedding as RotaryEmbedding
from torch_attention.positions.rotary import rotary_frequencies as rotary_frequencies
from torch_attention.positions.rotary import rotate as rotate
