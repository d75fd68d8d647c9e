"""One call of attention, and the ways there are to answer it."""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.arrays import as_array
from jax_attention.checks import (
    align,
    check_attention,
    check_boolean,
    check_sinks,
)
from jax_attention.ops.arguments import check_bias, check_dropout, check_scoring


class Call(NamedTuple):
    """The arguments of `dot_product_attention`, checked and resolved by `checked_call`."""

    query: Float[Array, "*batch heads query head_dim"]
    key: Float[Array, "*batch kv_heads key head_dim"]
    value: Float[Array, "*batch kv_heads key value_dim"]
    bias: Float[Array, "..."] | None
    mask: Bool[Array, "..."] | None
    is_causal: bool
    window: int | None
    query_offset: int | Int[Array, ""]
    scale: float
    softcap: float | None
    sinks: Float[Array, "heads"] | None
    dropout_keep: Bool[Array, "..."] | None
    dropout_rate: float


def checked_call(
    query: Float[Array, "*batch heads query head_dim"],
    key: Float[Array, "..."],
    value: Float[Array, "..."],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    is_causal: bool = False,
    window: int | None = None,
    query_offset: int | Int[Array, ""] = 0,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Float[Array, "heads"] | None = None,
    dropout_keep: Bool[Array, "..."] | None = None,
    dropout_rate: float = 0.0,
) -> Call:
    """Check and resolve the arguments of an attention call; the only place where this is done.

    Args:
        query, key, value, bias, mask, is_causal, window, query_offset, scale, softcap, sinks, dropout_keep,
            dropout_rate: as in `dot_product_attention`.

    Returns:
        The call, with the default scale filled in, mask and bias of the rank of the scores, and keys and values of the
        batch of the queries.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: shapes that do not fit, or a number out of range.
    """
    check_attention(query, key, value)
    check_scoring(is_causal, window, query_offset, scale, softcap)
    check_bias(bias)
    shape = (*query.shape[:-1], key.shape[-2])
    if mask is not None:
        check_boolean("mask", mask)
        mask = align("mask", as_array(mask), shape)
    if bias is not None:
        bias = align("bias", as_array(bias), shape)
    check_sinks(sinks, query)
    check_dropout(dropout_keep, dropout_rate, shape)
    query, key, value = as_array(query), as_array(key), as_array(value)
    if key.shape[:-3] != query.shape[:-3]:
        key = _for_all(key, query)
    if value.shape[:-3] != query.shape[:-3]:
        value = _for_all(value, query)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    options = is_causal, window, query_offset, scale, softcap, sinks, dropout_keep, dropout_rate
    return Call(query, key, value, bias, mask, *options)


def _for_all(x: Array, query: Array) -> Array:
    """Keys or values with a batch of 1, for the batch of the queries."""
    return jnp.broadcast_to(x, (*query.shape[:-3], *x.shape[-3:]))


class Implementation(NamedTuple):
    """One way to answer a call.

    Attributes:
        name: what `implementation=` calls it.
        refusal: one sentence that says what it cannot do of a call, or None.
        run: what each query reads.
    """

    name: str
    refusal: Callable[[Call], str | None]
    run: Callable[[Call], Array]
