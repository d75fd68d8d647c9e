"""Masked softmax and logsumexp of attention scores, with zero weights for fully masked rows."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.checks import check_broadcasts, check_sinks


@checked
def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Convert `x` to float32, the precision of sums and exponentials; float64 stays float64."""
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    return x.astype(wide)


@checked
def masked_softmax(
    scores: Float[Array, "... query key"], mask: Bool[Array, "#*axes"] | None = None
) -> Float[Array, "... query key"]:
    """Softmax over the visible keys, in at least float32.

    Args:
        scores: any real numbers.
        mask: boolean mask, True where a query may attend to a key, broadcast to `scores`; None for no mask.

    Returns:
        Weights that sum to one along the keys, exactly zero where masked. Fully masked rows are all zero, and so are
        their gradients.

    Raises:
        TypeError: the scores are not floating point, or the mask is not boolean.
        ValueError: shapes do not match.
    """
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    # A finite fill value: a row of only -inf would give NaN, forward and backward.
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0.0)


@checked
def masked_logsumexp(
    scores: Float[Array, "... query key"], mask: Bool[Array, "#*axes"] | None = None
) -> Float[Array, "... query"]:
    """Logsumexp over the visible keys: the logarithm of the denominator of their softmax.

    Args:
        scores: any real numbers.
        mask: boolean mask, True where a query may attend to a key, broadcast to `scores`; None for no mask.

    Returns:
        Logsumexp in at least float32; -inf with a gradient of zero for fully masked rows.

    Raises:
        TypeError: the scores are not floating point, or the mask is not boolean.
        ValueError: shapes do not match.
    """
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    seen = jnp.ones_like(scores, dtype=jnp.bool_) if mask is None else jnp.broadcast_to(mask, scores.shape)
    alive = seen.any(axis=-1)
    scores = jnp.where(seen, scores, -jnp.inf)
    # A row of only -inf would give NaN, forward and backward.
    scores = jnp.where(alive[..., None], scores, 0.0)
    # Relative to itself, so that a large result does not cost digits in the gradient.
    level = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    level = jnp.where(level == -jnp.inf, 0.0, level)  # rows without keys
    return jnp.where(alive, jax.nn.logsumexp(scores - level, axis=-1) + level[..., 0], -jnp.inf)


@checked
def sink_softmax(
    scores: Float[Array, "*batch heads query key"],
    sinks: Float[Array, "heads"],
    mask: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch heads query key"]:
    """Softmax over the visible keys and an attention sink, without the weight of the sink.

    Args:
        scores: any real numbers.
        sinks: score of the sink of each head, `(heads,)`.
        mask: boolean mask, True where a query may attend to a key, broadcast to `scores`; None for no mask.

    Returns:
        Weights in at least float32, exactly zero where masked. Fully masked rows are all zero, because the sink takes
        all their weight.

    Raises:
        TypeError: the scores are not floating point, or the mask is not boolean.
        ValueError: shapes do not match.
    """
    check_sinks(sinks, scores)
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    # A sink of -inf would give NaN in a row without keys.
    sinks = sinks.astype(scores.dtype)
    sinks = jnp.where(sinks == -jnp.inf, jnp.finfo(scores.dtype).min, sinks)
    sink = jnp.broadcast_to(sinks[:, None, None], (*scores.shape[:-1], 1))
    weights = jax.nn.softmax(jnp.concatenate([scores, sink], axis=-1), axis=-1)[..., :-1]
    return weights if mask is None else jnp.where(mask, weights, 0.0)


@checked
def share_of_keys(
    log_sum: Float[Array, "*batch heads query"], sinks: Float[Array, "heads"]
) -> Float[Array, "*batch heads query"]:
    """Total weight of the keys beside an attention sink.

    Args:
        log_sum: logsumexp of the keys without the sink, as returned by `masked_logsumexp`.
        sinks: score of the sink of each head, `(heads,)`.

    Returns:
        Total weight in [0, 1], in at least float32; 0 for fully masked rows.
    """
    log_sum = at_least_float32(log_sum)
    beyond = log_sum - jnp.broadcast_to(sinks.astype(log_sum.dtype)[:, None], log_sum.shape)
    # 0 for fully masked rows, even with a sink of -inf.
    return jax.nn.sigmoid(jnp.where(log_sum > -jnp.inf, beyond, -jnp.inf))
