"""Self-attention with other score functions, or with other maps from scores to weights than the softmax."""

from torch_attention.scores.cosine import CosineAttention as CosineAttention
from torch_attention.scores.entmax import Entmax15Attention as Entmax15Attention
from torch_attention.scores.entmax import entmax15 as entmax15
from torch_attention.scores.qk_norm import FullWidthQKNormAttention as FullWidthQKNormAttention
from torch_attention.scores.qk_norm import QKNormAttention as QKNormAttention
from torch_attention.scores.sigmoid import SigmoidAttention as SigmoidAttention
from torch_attention.scores.sigmoid import sigmoid_weights as sigmoid_weights
from torch_attention.scores.softcap import SoftcapAttention as SoftcapAttention
from torch_attention.scores.sparsemax import SparsemaxAttention as SparsemaxAttention
from torch_attention.scores.sparsemax import sparsemax as sparsemax
from torch_attention.scores.talking_heads import TalkingHeadsAttention as TalkingHeadsAttention
