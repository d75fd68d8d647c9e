r"""Scaled dot-product attention as it is defined (Vaswani et al. 2017, equation 1).

$$ \mathrm{Attention}(Q, K, V) = \mathrm{softmax}\!\left(s\,Q K^\top + B\right) V, \qquad s = 1/\sqrt{d} $$

| symbol | argument | shape                                                    |
|--------|----------|----------------------------------------------------------|
| Q      | `query`  | `(..., heads, query, head_dim)`                          |
| K      | `key`    | `(..., kv_heads, key, head_dim)`                         |
| V      | `value`  | `(..., kv_heads, key, value_dim)`                        |
| B      | `bias`   | broadcast to `(..., heads, query, key)`; -inf is a mask  |
| s      | `scale`  | a number                                                 |

The order is fixed: scale, bias, softcap, mask, softmax, dropout, values. These functions are for reading and
for proofs; every faster implementation is tested against them.
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
from torch_attention.ops.hidden import finite, spoiled_output, spoiled_scores
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
    """How well each key answers each query, and which keys each query sees; not yet weights.

    Args:
        query, key, bias, mask, is_causal, window, query_offset, query_lengths, key_lengths, query_segments,
            key_segments, scale, softcap: as in `dot_product_attention_weights`.

    Returns:
        Finite scores in at least float32, and one mask for all restrictions that broadcasts against them; None
        if every query sees every key.

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
    """How much each query attends to each key: the softmax of the masked scores.

    Args:
        query: what is looked for.
        key: what is offered; `num_heads` must be a multiple of its `kv_heads`.
        bias: added to the scaled scores; ranks as for `mask`. An entry of -inf masks its key.
        mask: True where the query attends to the key: `(query, key)`, `(..., query, key)` or, with axes of
            size 1 where it does not vary, `(..., heads, query, key)`.
        is_causal: see only keys at the query's position and before.
        window: see only the last `window` keys, the query's own included; needs `is_causal`. A pair `(before, after)`
            counts keys before and after the query, its own not counted, and None for no limit: with `is_causal`,
            `window=4` is `window=(3, 0)`.
        query_offset: position of the first query among the keys; an integer, or an integer array with one number
            for all or one for each batch element, `(batch,)`.
        query_lengths, key_lengths: how many queries and keys of each batch element are there, `(batch,)`; what
            follows is padding. A query that is padding sees no key.
        query_segments, key_segments: numbers of the texts that are packed in a row, `(batch, query)` and
            `(batch, key)`; a query sees keys of its own segment. `key_segments` may be left out in self-attention.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        softcap: scores are bent into (-softcap, softcap) by `softcap * tanh(scores / softcap)`.
        sinks: a score for each head that takes part of the weight and gives it to no key (gpt-oss, OpenAI 2025).

    Returns:
        Weights in at least float32. A query that sees no key has weights of exactly zero.

    Raises:
        TypeError: an argument of the wrong type: a mask that is not boolean, a bias that is, integer queries.
        ValueError: shapes that do not fit, or a number out of range.
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
    """Scores and mask of a checked call, as `dot_product_scores` returns them."""
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
    """Weights of a checked call, as `dot_product_attention_weights` returns them."""
    scores, mask = call_scores(call)
    return masked_softmax(scores, mask) if call.sinks is None else sink_softmax(scores, call.sinks, mask)


def call_values(
    call: Call, weights: Float[Tensor, "*batch heads query key"]
) -> Float[Tensor, "*batch heads query value_dim"]:
    """Output of a checked call for its weights, as `weighted_values` returns it."""
    return weighted_values(
        weights,
        call.value,
        dropout_keep=call.dropout_keep,
        dropout_rate=call.dropout_rate,
        has_masked=not call.visibility.is_total or call.mask is not None or call.bias is not None,
    )


def call_logsumexp(call: Call) -> Float[Tensor, "*batch heads query"]:
    """The logarithms of a checked call, as `dot_product_attention` returns them: of its scores alone, without sinks."""
    return masked_logsumexp(*call_scores(call))


def call_masks(call: Call) -> tuple[Float[Tensor, "..."] | None, Bool[Tensor, "..."] | None]:
    """One bias and one mask that say the same as all the restrictions of a checked call together.

    Returns:
        The bias with 0 in place of -inf, and the conjunction of all masks; None where there is nothing to say.
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
    """The mean of the values under the weights, some of which may be dropped (Srivastava et al. 2014).

    Args:
        weights: as `dot_product_attention_weights` gives them.
        value: values, whose weighted mean is the output.
        dropout_keep: False where a weight is dropped; those kept are divided by `1 - dropout_rate`.
        dropout_rate: the probability with which `dropout_keep` was drawn.
        has_masked: whether weights may be zero because their keys are masked; such values have no influence, NaN
            and inf included. False skips that protection.

    Returns:
        One value a query, in the dtype of `value`.

    Raises:
        TypeError: an array of the wrong type.
        ValueError: shapes that do not fit.
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
    """Weights first, then the mean of the values under them."""
    output = call_values(call, call_weights(call))  # ... heads query value_dim
    return (output, call_logsumexp(call)) if call.return_logsumexp else output


REFERENCE = Implementation("reference", lambda call: None, reference_attention)
