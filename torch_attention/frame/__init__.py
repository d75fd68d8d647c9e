"""Code shared by all dot-product attention classes: checks, KV cache, positions, dropout and dispatch."""

from torch_attention.frame.grouped import GroupedHeads as GroupedHeads
from torch_attention.frame.grouped import grouped_heads as grouped_heads
from torch_attention.frame.one_sequence import SelfAttentionFrame as SelfAttentionFrame
from torch_attention.frame.options import CrossCall as CrossCall
from torch_attention.frame.options import Dropping as Dropping
from torch_attention.frame.options import Placing as Placing
from torch_attention.frame.options import Scaled as Scaled
from torch_attention.frame.options import Scaling as Scaling
from torch_attention.frame.options import SelfCall as SelfCall
from torch_attention.frame.options import SharedCall as SharedCall
from torch_attention.frame.options import StreamingCall as StreamingCall
from torch_attention.frame.options import UndroppedCall as UndroppedCall
from torch_attention.frame.seen import Seen as Seen
from torch_attention.frame.two_sequences import CrossAttentionFrame as CrossAttentionFrame
