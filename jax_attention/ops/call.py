"""One call of attention, and the ways there are to answer it."""

from collections.abc import Callable, Sequence
from math import prod
from numbers import Integral
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.arrays import ARRAYS, as_array, as_integers, check_array
from jax_attention.checks import (
    align,
    check_attention,
    check_boolean,
    check_flag,
    check_sinks,
)
from jax_attention.ops.arguments import (
    check_bias,
    check_dropout,
    check_integers,
    check_offset,
    check_reach,
    check_scoring,
    check_segments,
)
from jax_attention.ops.visibility import Visibility, as_positions, reach, visible_pairs


class Call(NamedTuple):
    """The arguments of `dot_product_attention`, checked and resolved by `checked_call`."""

    query: Float[Array, "*batch heads query head_dim"]
    key: Float[Array, "*batch kv_heads key head_dim"]
    value: Float[Array, "*batch kv_heads key value_dim"]
    bias: Float[Array, "..."] | None
    mask: Bool[Array, "..."] | None
    visibility: Visibility
    scale: float
    softcap: float | None
    sinks: Float[Array, "heads"] | None
    dropout_keep: Bool[Array, "..."] | None
    dropout_rate: float
    return_logsumexp: bool


def checked_call(
    query: Float[Array, "*batch heads query head_dim"],
    key: Float[Array, "..."],
    value: Float[Array, "..."],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    is_causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    query_offset: int | Int[Array, "..."] = 0,
    query_lengths: Int[Array, "..."] | None = None,
    key_lengths: Int[Array, "..."] | None = None,
    query_segments: Int[Array, "..."] | None = None,
    key_segments: Int[Array, "..."] | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Array, "heads"] | None = None,
    dropout_keep: Bool[Array, "..."] | None = None,
    dropout_rate: float = 0.0,
    return_logsumexp: bool = False,
) -> Call:
    """Check and resolve the arguments of an attention call; the only place where this is done.

    Args:
        query, key, value, bias, mask, is_causal, window, query_offset, query_lengths, key_lengths, query_segments,
            key_segments, scale, softcap, sinks, dropout_keep, dropout_rate, return_logsumexp: as in
            `dot_product_attention`.

    Returns:
        The call, with the default scale filled in, mask and bias of the rank of the scores, keys and values of the
        batch of the queries, and zeros for queries behind `query_lengths`.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes that do not fit, or a number out of range.
    """
    check_array("value", value)
    check_attention(query, key, value)
    check_flag(is_causal=is_causal, return_logsumexp=return_logsumexp)
    check_reach(window, is_causal)
    shape = (*query.shape[:-1], key.shape[-2])
    *batch, _, query_len, key_len = shape
    check_offset(query_offset, batch)
    check_integers("query_lengths", query_lengths, "batch", batch)
    check_integers("key_lengths", key_lengths, "batch", batch)
    if key_segments is None and query_len == key_len:
        key_segments = query_segments
    check_segments(query_segments, key_segments)
    check_integers("query_segments", query_segments, "batch, query", (*batch, query_len))
    check_integers("key_segments", key_segments, "batch, key", (*batch, key_len))
    check_scoring(scale, softcap)
    check_bias(bias)
    if mask is not None:
        check_boolean("mask", mask)
        mask = align("mask", as_array(mask), shape)
    if bias is not None:
        bias = align("bias", as_array(bias), shape)
    check_sinks(sinks, query)
    sinks = None if sinks is None else as_array(sinks)
    check_dropout(dropout_keep, dropout_rate, shape)
    query, key, value = as_array(query), as_array(key), as_array(value)
    if key.shape[:-3] != query.shape[:-3]:
        key = _for_all(key, query)
    if value.shape[:-3] != query.shape[:-3]:
        value = _for_all(value, query)
    visibility = Visibility(
        *reach(is_causal, window, _offset(query_offset, batch)),
        *(_one_batch(x, batch, as_positions) for x in (query_lengths, key_lengths)),
        *(_one_batch(x, batch) for x in (query_segments, key_segments)),
    )
    if visibility.query_lengths is not None:
        query = _up_to(query, visibility.query_lengths)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    options = visibility, scale, softcap, sinks, dropout_keep, dropout_rate, return_logsumexp
    return Call(query, key, value, bias, mask, *options)


def _for_all(x: Array, query: Array) -> Array:
    """Keys or values with a batch of 1, for the batch of the queries."""
    return jnp.broadcast_to(x, (*query.shape[:-3], *x.shape[-3:]))


def _one_batch(
    x: Int[Array, "..."] | None,
    batch: Sequence[int],
    converted: Callable[[Array], Array] = as_integers,
) -> Int[Array, "..."] | None:
    """Numbers for each batch element, all batch axes as one."""
    if x is None:
        return None
    own = x.shape[len(batch) :]
    return jnp.broadcast_to(converted(x), (*batch, *own)).reshape(prod(batch), *own)


def _offset(x: Any, batch: Sequence[int]) -> Any:
    """One offset for all as it is, or those of all batch elements."""
    if isinstance(x, Integral):
        return int(x)
    if not isinstance(x, ARRAYS):
        return x
    return _one_batch(x, batch, as_positions) if x.ndim else as_positions(x)


def _up_to(query: Array, lengths: Int[Array, "batch"]) -> Array:
    """Queries, with zeros behind the length of each batch element."""
    there = visible_pairs(Visibility(query_lengths=lengths), (*query.shape[:-1], 1))
    return query if there is None else jnp.where(there, query, 0.0)


class Implementation(NamedTuple):
    """One way to answer a call.

    Attributes:
        name: what `implementation=` calls it.
        refusal: one sentence that says what it cannot do of a call, or None.
        run: what each query reads; with `Call.return_logsumexp` a pair of it and the logarithms.
    """

    name: str
    refusal: Callable[[Call], str | None]
    run: Callable[[Call], Any]
