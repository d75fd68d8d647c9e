"""PyTorch's own kernels, made to obey the contract.

`sdpa` is `scaled_dot_product_attention`: by itself it promises nothing for a mask together with `is_causal`, wants its
bias in the dtype of the query, and what a fully masked row gives is up to the kernel. Here all restrictions become
one mask, and a row with nothing to see is shown everything inside the kernel and set to zero after it, so that no
kernel meets an empty row. A window is cut into bands first, so that its cost is linear in the length.
`flex` is `torch.nn.attention.flex_attention`, which is compiled for each kind of call when it is first met.
"""

from functools import cache

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.nn.attention import flex_attention as flex

from torch_attention.checks import dtype_name
from torch_attention.masks import sliding_window_mask
from torch_attention.ops.call import Call, Implementation
from torch_attention.ops.definition import call_masks, resolve_masks
from torch_attention.ops.hidden import ignoring_dead_keys

BAND = 256  # queries in a band of a window


def sdpa_refusal(call: Call) -> str | None:
    """What the fused kernel cannot do of a call."""
    if call.softcap is not None:
        return "scaled_dot_product_attention has no softcap"
    if call.sinks is not None:
        return "scaled_dot_product_attention has no sinks"
    if call.dropout_keep is not None:
        return "scaled_dot_product_attention takes no dropout mask"
    if call.bias is not None and torch.promote_types(call.bias.dtype, call.query.dtype) != call.query.dtype:
        kinds = dtype_name(call.bias), dtype_name(call.query)
        return f"scaled_dot_product_attention rounds a bias to the dtype of the query, got {kinds[0]} and {kinds[1]}"
    if isinstance(call.scale, Tensor) or not call.scale > 0:
        return f"scaled_dot_product_attention needs a scale above 0 that is no tensor, got {call.scale}"
    return None


def native_attention(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """The call through the fused kernel."""
    query, key, value, scale = call.query, call.key, call.value, call.scale
    grouped = key.shape[-3] != query.shape[-3]
    offset = call.query_offset if isinstance(call.query_offset, int) else None
    unmasked = call.bias is None and call.mask is None
    behind_all = (
        call.window is None and offset is not None and offset >= key.shape[-2] - 1
    )  # what is one step
    is_causal = call.is_causal and not behind_all
    if unmasked and (not is_causal or (call.window is None and offset == 0)):
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=is_causal, scale=scale, enable_gqa=grouped
        )
    square = query.shape[-2] == key.shape[-2] and offset == 0
    if unmasked and square and call.window is not None and 2 * (call.window + BAND) < key.shape[-2]:
        return _in_bands(call)

    bias, visible = call_masks(call)
    if visible is None:
        added = None if bias is None else bias.to(query.dtype)
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=added, scale=scale, enable_gqa=grouped
        )
    alive = visible.any(dim=-1, keepdim=True)  # ... query 1
    visible = visible | ~alive
    restriction = visible if bias is None else torch.where(visible, bias, -torch.inf).to(query.dtype)
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=restriction, scale=scale, enable_gqa=grouped
    )
    return torch.where(alive, output, 0.0)


def _in_bands(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """A window, band after band of queries, each with the keys that it reaches and no others."""
    assert call.window is not None
    queries, keys, values = (x.split(BAND, dim=-2) for x in (call.query, call.key, call.value))
    before = -(-(call.window - 1) // BAND)  # how many bands of keys before a query's own its window reaches
    found = []
    for i, query in enumerate(queries):
        first = max(0, i - before)
        key, value = (torch.cat(x[first : i + 1], dim=-2) for x in (keys, values))
        visible = sliding_window_mask(
            query.shape[-2],
            key.shape[-2],
            window=call.window,
            query_offset=(i - first) * BAND,
            device=query.device,
        )
        found.append(
            F.scaled_dot_product_attention(
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
    """What flex attention cannot do of a call."""
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
    if not isinstance(call.query_offset, int):
        return "flex attention must know query_offset as a number"
    return None


def flex_kernel(call: Call) -> Float[Tensor, "*batch heads query value_dim"]:
    """The call through PyTorch's compiled flex attention."""
    *batch, heads, query_len, _ = call.query.shape
    query, key, value = (x.reshape(-1, *x.shape[-3:]) for x in (call.query, call.key, call.value))
    key_len, count = key.shape[-2], query.shape[0]
    bias, mask = resolve_masks(
        (*batch, heads, query_len, key_len),
        call.bias,
        call.mask,
        is_causal=False,
        window=None,
        query_offset=0,
        device=query.device,
    )
    bias, mask = (
        None
        if x is None
        else x.expand(*batch, heads, query_len, key_len).reshape(count, heads, query_len, key_len)
        for x in (bias, mask)
    )
    is_causal, window, softcap, offset = call.is_causal, call.window, call.softcap, call.query_offset

    def score(score: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if bias is not None:
            score = score + bias[b, h, i, j]
        return score if softcap is None else softcap * torch.tanh(score / softcap)

    def visible(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = j >= 0 if mask is None else mask[b, h, i, j]
        if is_causal:
            seen = seen & (j <= i + offset)
        return seen if window is None else seen & (j > i + offset - window)

    blocks = None
    if is_causal or mask is not None:
        each = None if mask is None else count
        blocks = flex.create_block_mask(
            visible, each, each and heads, query_len, key_len, device=str(query.device)
        )
    options = {
        "score_mod": score,
        "block_mask": blocks,
        "scale": call.scale,
        "enable_gqa": key.shape[1] != heads,
    }
    if call.sinks is None:
        output = _compiled_flex()(query, key, value, **options)
    else:  # the sinks' share is taken from the sum of all weights, 1
        output, extra = _compiled_flex()(query, key, value, **options, return_aux=flex.AuxRequest(lse=True))
        output = output * torch.sigmoid(extra.lse - call.sinks[:, None]).unsqueeze(-1).to(output.dtype)
    return output.reshape(*batch, *output.shape[1:])


@cache
def _compiled_flex():  # type: ignore[no-untyped-def]
    # Compiled for lengths that may vary, some calls with a bias are not valid C++.
    return torch.compile(flex.flex_attention, dynamic=False)


SDPA = Implementation("sdpa", sdpa_refusal, ignoring_dead_keys(native_attention))
FLEX = Implementation("flex", flex_refusal, ignoring_dead_keys(flex_kernel))
NATIVE = (SDPA, FLEX)
