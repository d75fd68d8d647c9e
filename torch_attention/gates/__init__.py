"""Self-attention with output gates, forget gates, or differences of two softmaxes."""

from torch_attention.gates.differential import DifferentialAttention as DifferentialAttention
from torch_attention.gates.differential import lambda_init_at as lambda_init_at
from torch_attention.gates.forgetting import ForgettingAttention as ForgettingAttention
from torch_attention.gates.forgetting import forgetting_bias as forgetting_bias
from torch_attention.gates.gated import GatedAttention as GatedAttention
from torch_attention.gates.gated import HeadwiseGatedAttention as HeadwiseGatedAttention
