r"""Reference implementation of scaled dot-product attention (Vaswani et al. 2017, equation 1).

$$ \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\!\left(s\,Q K^\top + B\right) V, \qquad s = 1/\sqrt{d} $$

| symbol | argument | shape                                                    |
|--------|----------|----------------------------------------------------------|
| Q      | `query`  | `(..., heads, query, head_dim)`                          |
| K      | `key`    | `(..., kv_heads, key, head_dim)`                         |
| V      | `value`  | `(..., kv_heads, key, value_dim)`                        |
| B      | `bias`   | broadcast to `(..., heads, query, key)`; -inf is a mask  |
| s      | `scale`  | a number                                                 |

The order is fixed: scale, bias, softcap, mask, softmax, dropout, values. These functions follow the equation line by
line; every faster implementation is tested against them.
"""

from functools import reduce
from operator import and_
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import einsum
from torch_attention.checks import check_keep, check_read
from torch_attention.ops.arrays import known_finite
from torch_attention.ops.call import Call, Implementation, checked_call
from torch_attention.ops.heads import repeat_heads
from torch_attention.ops.masked_values import finite, spoiled_output, spoiled_scores
from torch_attention.ops.rules import visible_pairs
from torch_attention.ops.softmax import at_least_float32, masked_logsumexp, masked_softmax, sink_softmax


def dot_product_scores(
    query: Float[Tensor, "*batch heads query head_dim"],
    key: Float[Tensor, "*batch kv_heads key head_dim"],
    bias: Float[Tensor, "..."] | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    *,
    is_causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    query_offset: int | Int[Tensor, "..."] = 0,
    query_lengths: Int[Tensor, "..."] | None = None,
    key_lengths: Int[Tensor, "..."] | None = None,
    query_segments: Int[Tensor, "..."] | None = None,
    key_segments: Int[Tensor, "..."] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
) -> tuple[Float[Tensor, "*batch heads query key"], Bool[Tensor, "..."] | None]:
    """Compute the scores before the softmax, and the combined mask of all restrictions.

    Args:
        query, key, bias, mask, is_causal, window, query_offset, query_lengths, key_lengths, query_segments,
            key_segments, scale, softcap: as in `dot_product_attention_weights`.

    Returns:
        Finite scores in at least float32, and one mask that broadcasts to them; None for the mask if every query
        attends to every key.

    Raises:
        TypeError, ValueError: as `dot_product_attention_weights`.
    """
    call = checked_call(
        query,
        key,
        key,
        bias,
        mask,
        is_causal=is_causal,
        window=window,
        query_offset=query_offset,
        query_lengths=query_lengths,
        key_lengths=key_lengths,
        query_segments=query_segments,
        key_segments=key_segments,
        scale=scale,
        softcap=softcap,
    )
    return call_scores(call)


def dot_product_attention_weights(
    query: Float[Tensor, "*batch heads query head_dim"],
    key: Float[Tensor, "*batch kv_heads key head_dim"],
    bias: Float[Tensor, "..."] | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    *,
    is_causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    query_offset: int | Int[Tensor, "..."] = 0,
    query_lengths: Int[Tensor, "..."] | None = None,
    key_lengths: Int[Tensor, "..."] | None = None,
    query_segments: Int[Tensor, "..."] | None = None,
    key_segments: Int[Tensor, "..."] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Tensor, "heads"] | None = None,
) -> Float[Tensor, "*batch heads query key"]:
    """Compute the attention weights: the softmax of the masked scores.

    Args:
        query: queries, `(..., heads, query_len, head_dim)`.
        key: keys, `(..., kv_heads, key_len, head_dim)`; `kv_heads` must divide `heads`.
        bias: additive bias of the scaled scores, with the shapes of `mask`; None for none. An entry of -inf masks
            its key.
        mask: boolean mask, True where a query may attend to a key; None for no mask. Its shape is `(query, key)`,
            `(..., query, key)` or `(..., heads, query, key)`; any axis may have size 1.
        is_causal: whether each query attends only to keys at its own and earlier positions.
        window: number of visible keys, including the query's own; needs `is_causal`. A pair `(before, after)` counts
            the visible keys before and after the query's own, where None is no limit: with `is_causal`, `window=4`
            equals `window=(3, 0)`. None for no limit.
        query_offset: position of the first query among the keys; an integer, an integer array of rank 0, or one
            integer per batch element, `(batch,)`.
        query_lengths, key_lengths: number of real queries and keys of each batch element, `(batch,)`; the rest is
            padding. Padding queries attend to no key.
        query_segments, key_segments: segment numbers of packed sequences, `(batch, query)` and `(batch, key)`; a
            query attends only to keys of its segment. `key_segments` defaults to `query_segments` for equal lengths.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        softcap: soft limit of the scores, `softcap * tanh(scores / softcap)`; None for none.
        sinks: attention sinks, one score per head, which take part of the weight without a value (gpt-oss, OpenAI
            2025); None for none.

    Returns:
        Attention weights in at least float32; exactly zero for fully masked rows.

    Raises:
        TypeError: an argument has the wrong type, such as a mask that is not boolean, a boolean bias or integer
            queries.
        ValueError: shapes do not match, or a number is out of range.
    """
    call = checked_call(
        query,
        key,
        key,
        bias,
        mask,
        is_causal=is_causal,
        window=window,
        query_offset=query_offset,
        query_lengths=query_lengths,
        key_lengths=key_lengths,
        query_segments=query_segments,
        key_segments=key_segments,
        scale=scale,
        softcap=softcap,
        sinks=sinks,
    )
    return call_weights(call)


def call_scores(call: Call) -> tuple[Float[Tensor, "*batch heads query key"], Bool[Tensor, "..."] | None]:
    """Compute the scores and the combined mask of a checked call, as `dot_product_scores` returns them."""
    bias, mask = call_masks(call)
    query = at_least_float32(call.query)  # ... heads query head_dim
    key = repeat_heads(at_least_float32(call.key), query.shape[-3])  # ... heads key head_dim
    offered = key if mask is None else finite(key)
    scores = einsum("...qd,...kd->...qk", query, offered)  # ... heads query key
    scores = scores * call.scale
    if bias is not None:
        scores = scores + at_least_float32(bias)
    if call.softcap is not None:
        scores = call.softcap * torch.tanh(scores / call.softcap)
    return (scores if mask is None else spoiled_scores(scores, key, mask)), mask


def call_weights(call: Call) -> Float[Tensor, "*batch heads query key"]:
    """Compute the attention weights of a checked call, as `dot_product_attention_weights` returns them."""
    scores, mask = call_scores(call)
    return masked_softmax(scores, mask) if call.sinks is None else sink_softmax(scores, call.sinks, mask)


def call_values(
    call: Call, weights: Float[Tensor, "*batch heads query key"]
) -> Float[Tensor, "*batch heads query value_dim"]:
    """Compute the output of a checked call from its attention weights, as `weighted_values` returns it."""
    return weighted_values(
        weights,
        call.value,
        dropout_keep=call.dropout_keep,
        dropout_rate=call.dropout_rate,
        has_masked=not call.visibility.is_total or call.mask is not None or call.bias is not None,
    )


def call_logsumexp(call: Call) -> Float[Tensor, "*batch heads query"]:
    """Compute the logsumexp of the scores of a checked call, without sinks, as `dot_product_attention` returns it."""
    return masked_logsumexp(*call_scores(call))


def call_masks(call: Call) -> tuple[Float[Tensor, "..."] | None, Bool[Tensor, "..."] | None]:
    """Combine all restrictions of a checked call into one bias and one mask.

    Returns:
        The bias with 0 instead of -inf, and the logical and of all masks; None for no bias, and for no mask.
    """
    bias, masks = call.bias, [call.mask]
    if bias is not None and not known_finite(bias):
        seen = bias != -torch.inf
        bias = torch.where(seen, bias, 0.0)
        masks.append(seen)
    masks.append(
        visible_pairs(call.visibility, (*call.query.shape[:-1], call.key.shape[-2]), device=call.query.device)
    )
    given = [mask for mask in masks if mask is not None]
    return bias, reduce(and_, given) if given else None


@checked
def weighted_values(
    weights: Float[Tensor, "*batch heads query key"],
    value: Float[Tensor, "*batch kv_heads key value_dim"],
    *,
    dropout_keep: Bool[Tensor, "*batch heads query key"] | None = None,
    dropout_rate: float = 0.0,
    has_masked: bool = True,
) -> Float[Tensor, "*batch heads query value_dim"]:
    """Compute the weighted mean of the values, with dropout of the weights (Srivastava et al. 2014).

    Args:
        weights: attention weights, as returned by `dot_product_attention_weights`.
        value: values, `(..., kv_heads, key_len, value_dim)`.
        dropout_keep: boolean dropout mask, True keeps; kept weights are divided by `1 - dropout_rate`.
        dropout_rate: rate with which `dropout_keep` was sampled.
        has_masked: whether some keys may be masked; values with a weight of zero then have no influence, even NaN and
            inf. False skips that protection.

    Returns:
        Output with one vector per query, in the dtype of `value`.

    Raises:
        TypeError: an array has the wrong type.
        ValueError: shapes do not match.
    """
    check_read(weights, value)
    check_keep(dropout_keep, weights.shape)
    if dropout_keep is not None:
        weights = torch.where(dropout_keep, weights / (1.0 - dropout_rate), 0.0)
    values = repeat_heads(value.to(weights.dtype), weights.shape[-3])  # ... heads key value_dim
    read = finite(values) if has_masked else values
    output = einsum("...qk,...kd->...qd", weights, read)  # ... heads query value_dim
    output = spoiled_output(output, weights, values) if has_masked else output
    return output.to(value.dtype)


def reference_attention(call: Call) -> Any:
    """Compute `dot_product_attention` by its definition: the weights, then the weighted mean of the values."""
    output = call_values(call, call_weights(call))  # ... heads query value_dim
    return (output, call_logsumexp(call)) if call.return_logsumexp else output


REFERENCE = Implementation("reference", lambda call: None, reference_attention)
