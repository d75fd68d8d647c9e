"""Choose the fastest implementation for a call."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from torch_attention.ops.arrays import is_dual, known_at_most, may_be_learned
from torch_attention.ops.blockwise import BLOCKWISE
from torch_attention.ops.call import Call
from torch_attention.ops.definition import REFERENCE
from torch_attention.ops.distributed.ring import RING
from torch_attention.ops.distributed.shards import over_shards, shards_of
from torch_attention.ops.native import SDPA, keeps_gradients

SHORT = 512 * 512  # query-key pairs up to which all scores are computed at once


def fastest(call: Call) -> Any:
    """Run a call with the fastest implementation for the device of its tensors."""
    shards = shards_of(call)
    if shards is not None and shards.sequence is not None and not RING.refusal(call):
        return RING.run(call)
    if shards is not None:
        return over_shards(call, shards._replace(sequence=None), fastest)
    if is_dual(call):  # only operations of PyTorch itself have forward mode
        return REFERENCE.run(call)
    # For the gradient of a bias, PyTorch replaces the fused kernel by one that computes all scores.
    learned_bias = call.bias is not None and may_be_learned(call.bias)
    if not SDPA.refusal(call) and not learned_bias and keeps_gradients(call):
        return SDPA.run(call)
    if known_at_most(call.query.shape[-2] * call.key.shape[-2], SHORT) or BLOCKWISE.refusal(call):
        return REFERENCE.run(call)
    return BLOCKWISE.run(call)


def differentiable(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """Like `fastest`, with derivatives of every order even if the kernel has only the first."""
    if SDPA.refusal(call) or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return fastest(call)
    return _Attended.apply(call, call.query, call.key, call.value, call.bias)


class _Attended(torch.autograd.Function):
    """Fused kernel with its own gradient; derivatives of that gradient come from the reference implementation."""

    @staticmethod
    def forward(ctx: Any, call: Call, *learned: Any) -> Tensor:
        given = [None if x is None else x.detach().requires_grad_(x.requires_grad) for x in learned]
        with torch.enable_grad():
            output = fastest(_with_learned(call, given))
        ctx.call, ctx.given, ctx.output = call, given, output
        ctx.save_for_backward(*learned)
        return output.detach()

    @staticmethod
    def backward(ctx: Any, d_output: Tensor) -> tuple[Tensor | None, ...]:
        again = torch.is_grad_enabled()  # a second derivative may be needed
        given = list(ctx.saved_tensors) if again else ctx.given
        output = REFERENCE.run(_with_learned(ctx.call, given)) if again else ctx.output
        asked = [i for i, x in enumerate(given) if x is not None and x.requires_grad]
        found = torch.autograd.grad(
            output, [given[i] for i in asked], d_output, retain_graph=True, create_graph=again
        )
        gradients: list[Tensor | None] = [None] * len(given)
        for i, gradient in zip(asked, found, strict=True):
            gradients[i] = gradient
        return None, *gradients


def _with_learned(call: Call, learned: list[Any]) -> Call:
    query, key, value, bias = learned
    return call._replace(query=query, key=key, value=value, bias=bias)
