"""PyTorch's own attention kernels, adapted to this package's conventions.

`sdpa` is `scaled_dot_product_attention`. On its own it does not support a mask together with `is_causal`, needs a bias
in the dtype of the query, and leaves fully masked rows undefined. Here all restrictions are combined into one mask;
fully masked rows are unmasked inside the kernel and their output is set to zero. A window is computed in bands, so that
its cost is linear in the length. The kernel is differentiable once: a second derivative raises an error.
`flex` is `torch.nn.attention.flex_attention`, compiled at the first call of each kind.
"""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from torch_attention.checks import dtype_name
from torch_attention.ops.arrays import known_above, known_within, may_be_learned
from torch_attention.ops.call import Call, Implementation
from torch_attention.ops.definition import call_masks
from torch_attention.ops.masked_values import ignoring_dead_keys
from torch_attention.ops.rules import Visibility, sees, visible_pairs
from torch_attention.ops.softmax import share_of_keys

BAND = 256  # queries in a band of a window
LARGE = 2.0**14  # beside a bias of this size, a float32 logsumexp has ten bits after the binary point


def sdpa_refusal(call: Call) -> str | None:
    """Reason why the fused kernel does not support a call; None if it does."""
    if call.return_logsumexp:
        return "scaled_dot_product_attention gives no logsumexp"
    if call.softcap is not None:
        return "scaled_dot_product_attention has no softcap"
    if call.sinks is not None:
        return "scaled_dot_product_attention has no sinks"
    if call.dropout_keep is not None:
        return "scaled_dot_product_attention takes no dropout mask"
    if call.bias is not None and torch.promote_types(call.bias.dtype, call.query.dtype) != call.query.dtype:
        kinds = dtype_name(call.bias), dtype_name(call.query)
        return f"scaled_dot_product_attention rounds a bias to the dtype of the query, got {kinds[0]} and {kinds[1]}"
    if keeps_gradients(call) is False:
        return f"scaled_dot_product_attention loses gradients beside a bias of numbers above {LARGE}"
    if isinstance(call.scale, Tensor):
        return "scaled_dot_product_attention needs a scale that is a number, got an array"
    if not call.scale > 0:
        return f"scaled_dot_product_attention needs a scale above 0, got {call.scale}"
    return None


def keeps_gradients(call: Call) -> bool | None:
    """Whether the fused kernel computes correct gradients for a call; None if unknown.

    The kernel saves the logsumexp of each row. Beside a large bias, its digits are lost to rounding, and the weights
    that are recomputed from it sum to the number of keys instead of one.
    """
    if call.bias is None or call.query.device.type != "cpu" or not torch.is_grad_enabled():
        return True
    if may_be_learned(call.bias) or not any(may_be_learned(x) for x in (call.query, call.key, call.value)):
        return True  # PyTorch computes all weights if the bias has a gradient
    return known_within(call.bias, LARGE)


def sdpa_attention(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """Run a call with the fused kernel; 16-bit calls with gradients run in float32 on the CPU.

    In 16 bits, the kernel computes gradients from rounded weights and outputs, and for large scores its error is
    several times that in the reference implementation. The CPU is as fast in float32.
    """
    given = call.query, call.key, call.value, call.bias
    is_narrow = call.query.device.type == "cpu" and call.query.dtype in (torch.float16, torch.bfloat16)
    if is_narrow and torch.is_grad_enabled() and any(x is not None and may_be_learned(x) for x in given):
        query, key, value, bias = (x if x is None else x.float() for x in given)
        wide: Any = {"query": query, "key": key, "value": value, "bias": bias}
        return native_attention(call._replace(**wide)).to(call.query.dtype)
    return native_attention(call)


def native_attention(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """Run a call with the fused kernel."""
    query, key, value, scale = call.query, call.key, call.value, call.scale
    grouped = key.shape[-3] != query.shape[-3]
    seen = call.visibility
    before: Any = seen.before
    after: Any = seen.after
    offset: Any = seen.query_offset
    known = call.bias is None and call.mask is None and seen.is_uniform and isinstance(offset, int)
    if known and before is None:
        sees_all = after is None or offset + after >= key.shape[-2] - 1  # as in a decode step
        if sees_all or offset + after == 0:
            return _fused(query, key, value, is_causal=not sees_all, scale=scale, enable_gqa=grouped)
    square = query.shape[-2] == key.shape[-2] and offset == 0
    has_window = known and square and before is not None and after is not None
    if has_window and known_above(key.shape[-2], 2 * (before + after + 1 + BAND)):
        return _in_bands(call)

    bias, visible = call_masks(call)
    if visible is None:
        added = None if bias is None else bias.to(query.dtype)
        return _fused(query, key, value, attn_mask=added, scale=scale, enable_gqa=grouped)
    alive = visible.any(dim=-1, keepdim=True)  # ... query 1
    visible = visible | ~alive
    restriction = visible if bias is None else torch.where(visible, bias, -torch.inf).to(query.dtype)
    output = _fused(query, key, value, attn_mask=restriction, scale=scale, enable_gqa=grouped)
    return torch.where(alive, output, 0.0)


def _fused(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """Call PyTorch's fused kernel in the precision of its arguments, with autocast disabled."""
    kind = query.device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return F.scaled_dot_product_attention(query, key, value, **options)
    with torch.autocast(kind, enabled=False):
        return F.scaled_dot_product_attention(query, key, value, **options)


def _in_bands(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """Compute a window in bands of queries, each with only the keys in its reach."""
    seen = call.visibility
    assert seen.before is not None
    assert seen.after is not None
    queries, keys, values = (x.split(BAND, dim=-2) for x in (call.query, call.key, call.value))
    # Number of key bands that the window reaches before and after a query band.
    before, after = (-(-side // BAND) for side in (seen.before, seen.after))
    found = []
    for i, query in enumerate(queries):
        first = max(0, i - before)
        key, value = (torch.cat(x[first : i + after + 1], dim=-2) for x in (keys, values))
        there = seen._replace(query_offset=(i - first) * BAND)
        visible = visible_pairs(there, (*query.shape[:-1], key.shape[-2]), device=query.device)
        found.append(
            _fused(
                query,
                key,
                value,
                attn_mask=visible,
                scale=call.scale,
                enable_gqa=key.shape[-3] != query.shape[-3],
            )
        )
    return torch.cat(found, dim=-2)


def flex_refusal(call: Call) -> str | None:
    """Reason why flex attention does not support a call; None if it does."""
    if call.dropout_keep is not None:
        return "flex attention takes no dropout mask"
    if call.query.dtype == torch.float64:
        return "flex attention computes in at most float32, got float64"
    if call.sinks is not None and call.query.device.type == "cpu":
        return "flex attention has no sinks on the CPU"
    given = (call.query, call.key, call.value, call.bias)
    learned = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in given)
    if learned and call.query.device.type == "cpu":
        return "flex attention has no backward pass on the CPU"
    if call.return_logsumexp and call.query.device.type == "cpu":
        return "flex attention gives no logsumexp on the CPU"
    if not isinstance(call.visibility.query_offset, int):
        return "flex attention needs a query_offset that is a plain integer"
    return None


def flex_kernel(call: Call) -> Any:
    """Run a call with PyTorch's compiled flex attention."""
    *batch, heads, query_len, _ = call.query.shape
    query, key, value = (x.reshape(-1, *x.shape[-3:]) for x in (call.query, call.key, call.value))
    key_len, count = key.shape[-2], query.shape[0]
    seen = call.visibility
    bias, mask = call_masks(call._replace(visibility=Visibility()))
    bias, mask = (
        None
        if x is None
        else x.expand(*batch, heads, query_len, key_len).reshape(count, heads, query_len, key_len)
        for x in (bias, mask)
    )
    softcap = call.softcap

    def score(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if bias is not None:
            score = score + bias[b, h, i, j]
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        here = sees(seen, b, i, j)
        here = j >= 0 if here is None else here
        return here if mask is None else here & mask[b, h, i, j]

    blocks = None
    if not seen.is_total or mask is not None:
        each = None if mask is None and seen.is_uniform else count
        blocks = flex.create_block_mask(
            visible, each, each and heads, query_len, key_len, device=str(query.device)
        )
    options = {
        "score_mod": score,
        "block_mask": blocks,
        "scale": call.scale,
        "enable_gqa": key.shape[1] != heads,
    }
    if call.sinks is None and not call.return_logsumexp:
        output = _compiled_flex()(query, key, value, **options)
        return output.reshape(*batch, *output.shape[1:])
    output, extra = _compiled_flex()(query, key, value, **options, return_aux=flex.AuxRequest(lse=True))
    if call.sinks is not None:  # subtract the sinks' share of the total weight
        output = output * share_of_keys(extra.lse, call.sinks).unsqueeze(-1).to(output.dtype)
    output, log_sum = output.reshape(*batch, *output.shape[1:]), extra.lse.reshape(*batch, heads, query_len)
    return (output, log_sum) if call.return_logsumexp else output


@cache
def _compiled_flex():  # type: ignore[no-untyped-def]
    # With dynamic shapes, the C++ code generated for some calls with a bias does not compile.
    return torch.compile(flex.flex_attention, dynamic=False)


SDPA = Implementation("sdpa", sdpa_refusal, ignoring_dead_keys(sdpa_attention))
FLEX = Implementation("flex", flex_refusal, ignoring_dead_keys(flex_kernel))
NATIVE = (SDPA, FLEX)
