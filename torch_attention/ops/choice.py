"""Which implementation answers a call that asks for none."""

from typing import Any

from torch_attention.ops.blockwise import BLOCKWISE
from torch_attention.ops.call import Call
from torch_attention.ops.known import is_dual, known_at_most, may_be_learned
from torch_attention.ops.native import SDPA
from torch_attention.ops.reference import REFERENCE
from torch_attention.ops.ring import RING
from torch_attention.ops.shards import over_shards, shards_of

SHORT = 512 * 512  # pairs of a query and a key, up to which all scores are made at once


def fastest(call: Call) -> Any:
    """Answer a call by the implementation that is fastest for it where its tensors are."""
    shards = shards_of(call)
    if shards is not None and shards.sequence is not None and not RING.refusal(call):
        return RING.run(call)
    if shards is not None:
        return over_shards(call, shards._replace(sequence=None), fastest)
    if is_dual(call):  # only operations of PyTorch itself have forward mode
        return REFERENCE.run(call)
    # For the gradient of a bias the fused kernel gives way to one that makes all scores.
    learned_bias = call.bias is not None and may_be_learned(call.bias)
    if not SDPA.refusal(call) and not learned_bias:
        return SDPA.run(call)
    if known_at_most(call.query.shape[-2] * call.key.shape[-2], SHORT):
        return REFERENCE.run(call)
    return BLOCKWISE.run(call)
