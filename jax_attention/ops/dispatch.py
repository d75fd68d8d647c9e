"""Scaled dot-product attention with a choice of implementations.

`implementation=None` runs the fastest implementation that supports the call; it never raises for lack of support and
never changes the result. A name selects one implementation: `reference` computes all weights at once, `blockwise` one
tile at a time, `ring` and `all_to_all` run over several devices, and the others are kernels of the framework.

Derivatives are correct or raise an error. PyTorch's SDPA has no second derivative, and `jax.custom_vjp`, which defines
the gradients of tiles and of the ring in JAX, has no forward mode; `implementation="reference"` has both.
`docs/derivatives.md` lists the derivatives of each implementation.
"""

from typing import Any, TypedDict, Unpack

from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.checks import check_flag
from jax_attention.ops.blockwise import BLOCKWISE
from jax_attention.ops.call import Call, checked_call
from jax_attention.ops.choice import fastest
from jax_attention.ops.definition import REFERENCE, call_values, call_weights
from jax_attention.ops.distributed.exchange import ALL_TO_ALL
from jax_attention.ops.distributed.ring import RING
from jax_attention.ops.native import NATIVE

IMPLEMENTATIONS = {each.name: each for each in (REFERENCE, BLOCKWISE, RING, ALL_TO_ALL, *NATIVE)}


class Restrictions(TypedDict, total=False):
    """Arguments for the visible keys and the scale of the scores, as in `dot_product_attention_weights`."""

    is_causal: bool
    window: int | tuple[int | None, int | None] | None
    query_offset: int | Int[Array, "..."]
    query_lengths: Int[Array, "..."] | None
    key_lengths: Int[Array, "..."] | None
    query_segments: Int[Array, "..."] | None
    key_segments: Int[Array, "..."] | None
    scale: float | None


class Scoring(Restrictions, total=False):
    """Arguments that affect the attention scores, as in `dot_product_attention_weights`."""

    softcap: float | None
    sinks: Float[Array, "heads"] | None


def dot_product_attention(
    query: Float[Array, "*batch heads query head_dim"],
    key: Float[Array, "*batch kv_heads key head_dim"],
    value: Float[Array, "*batch kv_heads key value_dim"],
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
    implementation: str | None = None,
) -> Any:
    """Scaled dot-product attention: softmax(QKᵀ·scale + bias) V (Vaswani et al. 2017).

    Args:
        query, key, bias, mask, is_causal, window, query_offset, query_lengths, key_lengths, query_segments,
            key_segments, scale, softcap, sinks: as in `dot_product_attention_weights`.
        value: values, `(..., kv_heads, key_len, value_dim)`.
        dropout_keep, dropout_rate: as in `weighted_values`.
        return_logsumexp: whether to return the logsumexp of each query's scores as well.
        implementation: one of `IMPLEMENTATIONS`; None for the fastest that supports the call.

    Returns:
        Output with one vector per query, in the dtype of `query`; exactly zero for fully masked rows. With
        `return_logsumexp`, a pair of the output and the logsumexp of the scores, in at least float32, without sinks and
        dropout; it is -inf with a gradient of zero for fully masked rows.

    Raises:
        TypeError: an argument has the wrong type, such as a mask that is not boolean, a boolean bias or integer
            queries.
        ValueError: shapes do not match, a number is out of range, or the implementation is unknown.
        NotImplementedError: the selected implementation does not support the call.
    """
    call = checked_call(
        query,
        key,
        value,
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
        dropout_keep=dropout_keep,
        dropout_rate=dropout_rate,
        return_logsumexp=return_logsumexp,
    )
    return output_of(call, implementation)


def output_of(call: Call, implementation: str | None) -> Any:
    """Run a checked call with one implementation, or with the fastest for None.

    Raises:
        ValueError: the implementation is unknown.
        NotImplementedError: the selected implementation does not support the call.
    """
    if implementation is None:
        return fastest(call)
    if not isinstance(implementation, str) or implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"implementation must be None or one of {', '.join(IMPLEMENTATIONS)}, got {implementation}"
        )
    asked = IMPLEMENTATIONS[implementation]
    refusal = asked.refusal(call)
    if refusal:
        raise NotImplementedError(refusal)
    return asked.run(call)


def attend(
    query: Float[Array, "*batch heads query head_dim"],
    key: Float[Array, "*batch kv_heads key head_dim"],
    value: Float[Array, "*batch kv_heads key value_dim"],
    bias: Float[Array, "..."] | None = None,
    mask: Bool[Array, "..."] | None = None,
    *,
    need_weights: bool = True,
    dropout_keep: Bool[Array, "..."] | None = None,
    dropout_rate: float = 0.0,
    **scoring: Unpack[Scoring],
) -> tuple[Float[Array, "*batch heads query value_dim"], Float[Array, "*batch heads query key"] | None]:
    """Compute `dot_product_attention` and its attention weights, as a module needs them between its projections.

    Args:
        query, key, value, bias, mask, dropout_keep, dropout_rate, scoring: as in `dot_product_attention`.
        need_weights: whether to return the attention weights; without them a fused kernel may run.

    Returns:
        The output, and the attention weights before dropout in at least float32; None without `need_weights`.

    Raises:
        TypeError, ValueError: as `dot_product_attention`.
    """
    check_flag(need_weights=need_weights)
    rate = 0.0 if dropout_keep is None else dropout_rate
    call = checked_call(
        query, key, value, bias, mask, dropout_keep=dropout_keep, dropout_rate=rate, **scoring
    )
    if not need_weights:
        return fastest(call), None
    weights = call_weights(call)
    return call_values(call, weights), weights
