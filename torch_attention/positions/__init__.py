"""Positional encodings: modules for the `position` argument of dot-product classes, and embeddings added to inputs."""

from torch_attention.positions.absolute import LearnedEmbedding as LearnedEmbedding
from torch_attention.positions.absolute import SinusoidalEmbedding as SinusoidalEmbedding
from torch_attention.positions.absolute import sinusoid as sinusoid
from torch_attention.positions.alibi import ALiBi as ALiBi
from torch_attention.positions.alibi import alibi_slopes as alibi_slopes
from torch_attention.positions.deberta import DisentangledSelfAttention as DisentangledSelfAttention
from torch_attention.positions.patches import PatchBias as PatchBias
from torch_attention.positions.patches import PatchRotaryEmbedding as PatchRotaryEmbedding
from torch_attention.positions.protocol import place as place
from torch_attention.positions.rotary import RotaryEmbedding as RotaryEmbedding
from torch_attention.positions.rotary import rotary_frequencies as rotary_frequencies
from torch_attention.positions.rotary import rotate as rotate
from torch_attention.positions.rotary_axes import AxialRotaryEmbedding as AxialRotaryEmbedding
from torch_attention.positions.rotary_axes import MultiAxisRotaryEmbedding as MultiAxisRotaryEmbedding
from torch_attention.positions.rotary_scaling import dynamic_ntk_frequencies as dynamic_ntk_frequencies
from torch_attention.positions.rotary_scaling import linear_frequencies as linear_frequencies
from torch_attention.positions.rotary_scaling import llama3_frequencies as llama3_frequencies
from torch_attention.positions.rotary_scaling import longrope_amplitude as longrope_amplitude
from torch_attention.positions.rotary_scaling import longrope_frequencies as longrope_frequencies
from torch_attention.positions.rotary_scaling import proportional_frequencies as proportional_frequencies
from torch_attention.positions.rotary_scaling import yarn_amplitude as yarn_amplitude
from torch_attention.positions.rotary_scaling import yarn_frequencies as yarn_frequencies
from torch_attention.positions.shaw import ShawEmbedding as ShawEmbedding
from torch_attention.positions.shaw import ShawSelfAttention as ShawSelfAttention
from torch_attention.positions.t5 import T5Bias as T5Bias
from torch_attention.positions.transformer_xl import TransformerXLEmbedding as TransformerXLEmbedding
