"""Code shared by all dot-product attention classes: checks, KV cache, positions, dropout and dispatch."""

from jax_attention.frame.grouped import GroupedHeads as GroupedHeads
from jax_attention.frame.grouped import grouped_heads as grouped_heads
from jax_attention.frame.one_sequence import SelfAttentionFrame as SelfAttentionFrame
from jax_attention.frame.options import CrossCall as CrossCall
from jax_attention.frame.options import Dropping as Dropping
from jax_attention.frame.options import Placing as Placing
from jax_attention.frame.options import Scaled as Scaled
from jax_attention.frame.options import Scaling as Scaling
from jax_attention.frame.options import SelfCall as SelfCall
from jax_attention.frame.options import SharedCall as SharedCall
from jax_attention.frame.options import StreamingCall as StreamingCall
from jax_attention.frame.options import UndroppedCall as UndroppedCall
from jax_attention.frame.seen import Seen as Seen
from jax_attention.frame.two_sequences import CrossAttentionFrame as CrossAttentionFrame
