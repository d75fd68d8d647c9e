"""Self-attention with other score functions, or with other maps from scores to weights than the softmax."""

from jax_attention.scores.cosine import CosineAttention as CosineAttention
from jax_attention.scores.entmax import Entmax15Attention as Entmax15Attention
from jax_attention.scores.entmax import entmax15 as entmax15
from jax_attention.scores.qk_norm import FullWidthQKNormAttention as FullWidthQKNormAttention
from jax_attention.scores.qk_norm import QKNormAttention as QKNormAttention
from jax_attention.scores.sigmoid import SigmoidAttention as SigmoidAttention
from jax_attention.scores.sigmoid import sigmoid_weights as sigmoid_weights
from jax_attention.scores.softcap import SoftcapAttention as SoftcapAttention
from jax_attention.scores.sparsemax import SparsemaxAttention as SparsemaxAttention
from jax_attention.scores.sparsemax import sparsemax as sparsemax
from jax_attention.scores.talking_heads import TalkingHeadsAttention as TalkingHeadsAttention
