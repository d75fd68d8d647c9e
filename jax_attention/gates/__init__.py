"""Self-attention with output gates, forget gates, or differences of two softmaxes."""

from jax_attention.gates.differential import DifferentialAttention as DifferentialAttention
from jax_attention.gates.differential import lambda_init_at as lambda_init_at
from jax_attention.gates.forgetting import ForgettingAttention as ForgettingAttention
from jax_attention.gates.forgetting import forgetting_bias as forgetting_bias
from jax_attention.gates.gated import GatedAttention as GatedAttention
from jax_attention.gates.gated import HeadwiseGatedAttention as HeadwiseGatedAttention
