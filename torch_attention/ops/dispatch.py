"""Scaled dot-product attention for use: one call, the fastest implementation that can do it.

`implementation=None` never refuses and never changes the result. A name asks for one implementation and for no
other: `reference` makes all weights, `blockwise` never more than a tile of them, the rest are the framework's own.

Every derivative that is given is right, and what is not given raises. PyTorch's SDPA has no second derivative of its
own, and `jax.custom_vjp`, by which tiles and the ring have their gradients in JAX, has no forward mode;
`implementation="reference"` gives both. `docs/derivatives.md` says which implementation gives what.
"""

from typing import Any, TypedDict, Unpack

from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.checks import check_flag
from torch_attention.ops.blockwise import BLOCKWISE
from torch_attention.ops.call import Call, checked_call
from torch_attention.ops.choice import fastest
from torch_attention.ops.definition import REFERENCE, call_values, call_weights
from torch_attention.ops.distributed.exchange import ALL_TO_ALL
from torch_attention.ops.distributed.ring import RING
from torch_attention.ops.native import NATIVE

IMPLEMENTATIONS = {each.name: each for each in (REFERENCE, BLOCKWISE, RING, ALL_TO_ALL, *NATIVE)}


class Restrictions(TypedDict, total=False):
    """Which keys a query sees and how scores are scaled; each as in `dot_product_attention_weights`."""

    is_causal: bool
    window: int | tuple[int | None, int | None] | None
    query_offset: int | Int[Tensor, "..."]
    query_lengths: Int[Tensor, "..."] | None
    key_lengths: Int[Tensor, "..."] | None
    query_segments: Int[Tensor, "..."] | None
    key_segments: Int[Tensor, "..."] | None
    scale: float | None


class Scoring(Restrictions, total=False):
    """All that decides the scores; each as in `dot_product_attention_weights`."""

    softcap: float | None
    sinks: Float[Tensor, "heads"] | None


def dot_product_attention(
    query: Float[Tensor, "*batch heads query head_dim"],
    key: Float[Tensor, "*batch kv_heads key head_dim"],
    value: Float[Tensor, "*batch kv_heads key value_dim"],
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
    dropout_keep: Bool[Tensor, "..."] | None = None,
    dropout_rate: float = 0.0,
    return_logsumexp: bool = False,
    implementation: str | None = None,
) -> Any:
    """The mean of the values, weighted by how well each key answers the query (Vaswani et al. 2017).

    Args:
        query, key, bias, mask, is_causal, window, query_offset, query_lengths, key_lengths, query_segments,
            key_segments, scale, softcap, sinks: as in `dot_product_attention_weights`.
        value: values, whose weighted mean is the output.
        dropout_keep, dropout_rate: as in `weighted_values`.
        return_logsumexp: whether to return the logarithm of each query's sum of exponentials as well.
        implementation: one of `IMPLEMENTATIONS`, or None for the fastest that can do the call.

    Returns:
        One value a query, in the dtype of `query`; exactly zero where a query sees no key. With `return_logsumexp` a
        pair of it and the logarithms, in at least float32: of what the scores of a query sum to, sinks and dropout
        left out; -inf with a gradient of zero where a query sees no key.

    Raises:
        TypeError: an argument of the wrong type: a mask that is not boolean, a bias that is, integer queries.
        ValueError: shapes that do not fit, a number out of range, or an unknown implementation.
        NotImplementedError: the implementation asked for cannot do the call.
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
    """The output of a checked call, with its logsumexp where it asks for it, by one implementation or the fastest.

    Raises:
        ValueError: an unknown implementation.
        NotImplementedError: the implementation asked for cannot do the call.
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
    query: Float[Tensor, "*batch heads query head_dim"],
    key: Float[Tensor, "*batch kv_heads key head_dim"],
    value: Float[Tensor, "*batch kv_heads key value_dim"],
    bias: Float[Tensor, "..."] | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    *,
    need_weights: bool = True,
    dropout_keep: Bool[Tensor, "..."] | None = None,
    dropout_rate: float = 0.0,
    **scoring: Unpack[Scoring],
) -> tuple[Float[Tensor, "*batch heads query value_dim"], Float[Tensor, "*batch heads query key"] | None]:
    """`dot_product_attention` together with its weights: what a module calls between its projections.

    Args:
        query, key, value, bias, mask, dropout_keep, dropout_rate, scoring: as in `dot_product_attention`.
        need_weights: with False the weights are None and the fastest implementation runs.

    Returns:
        The output, and the weights before dropout in at least float32.

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
