"""The softmax of attention: over the keys that may be seen, and zero where there are none."""

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.checks import check_broadcasts, check_sinks


@checked
def at_least_float32(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`x` in float32, or in float64 if it is that already: what sums and exponentials are computed in."""
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    return x.astype(wide)


@checked
def masked_softmax(
    scores: Float[Array, "... query key"], mask: Bool[Array, "#*axes"] | None = None
) -> Float[Array, "... query key"]:
    """Softmax over the visible keys, in at least float32.

    Args:
        scores: any real numbers.
        mask: True where the query attends to the key; broadcast against `scores`. None shows every key.

    Returns:
        Weights that sum to one along the keys, exactly zero where masked; a row with no visible key is zero
        throughout, and so are its gradients.

    Raises:
        TypeError: scores that are not floating point, or a mask that is not boolean.
        ValueError: shapes that do not fit.
    """
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    if mask is None:
        return jax.nn.softmax(scores, axis=-1)
    # A finite fill, not -inf: a row of -inf alone would be NaN, forward and backward.
    scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    return jnp.where(mask, jax.nn.softmax(scores, axis=-1), 0.0)


@checked
def masked_logsumexp(
    scores: Float[Array, "... query key"], mask: Bool[Array, "#*axes"] | None = None
) -> Float[Array, "... query"]:
    """The logarithm of the sum of the exponentials of the visible scores: what their softmax divides by.

    Args:
        scores: any real numbers.
        mask: True where the query attends to the key; broadcast against `scores`. None shows every key.

    Returns:
        In at least float32; -inf with a gradient of zero where no key is visible.

    Raises:
        TypeError: scores that are not floating point, or a mask that is not boolean.
        ValueError: shapes that do not fit.
    """
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    seen = jnp.ones_like(scores, dtype=jnp.bool_) if mask is None else jnp.broadcast_to(mask, scores.shape)
    alive = seen.any(axis=-1)
    scores = jnp.where(seen, scores, -jnp.inf)
    # A row of -inf alone would be NaN, forward and backward.
    scores = jnp.where(alive[..., None], scores, 0.0)
    # Relative to itself, for its gradient may be rounded as its result is, which may be large.
    level = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    level = jnp.where(level == -jnp.inf, 0.0, level)  # where there are no keys
    return jnp.where(alive, jax.nn.logsumexp(scores - level, axis=-1) + level[..., 0], -jnp.inf)


@checked
def sink_softmax(
    scores: Float[Array, "*batch heads query key"],
    sinks: Float[Array, "heads"],
    mask: Bool[Array, "..."] | None = None,
) -> Float[Array, "*batch heads query key"]:
    """Softmax over the visible keys and a sink, without the share of the sink.

    Args:
        scores: any real numbers.
        sinks: the score of each head's sink.
        mask: True where the query attends to the key; broadcast against `scores`. None shows every key.

    Returns:
        Weights in at least float32, exactly zero where masked; a row with no visible key is zero throughout, for
        all of it went into the sink.

    Raises:
        TypeError: scores that are not floating point, or a mask that is not boolean.
        ValueError: shapes that do not fit.
    """
    check_sinks(sinks, scores)
    check_broadcasts("mask", mask, scores.shape)
    scores = at_least_float32(scores)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(scores.dtype).min)
    # A sink of -inf alone, where there are no keys, would be NaN.
    sinks = sinks.astype(scores.dtype)
    sinks = jnp.where(sinks == -jnp.inf, jnp.finfo(scores.dtype).min, sinks)
    sink = jnp.broadcast_to(sinks[:, None, None], (*scores.shape[:-1], 1))
    weights = jax.nn.softmax(jnp.concatenate([scores, sink], axis=-1), axis=-1)[..., :-1]
    return weights if mask is None else jnp.where(mask, weights, 0.0)


@checked
def share_of_keys(
    log_sum: Float[Array, "*batch heads query"], sinks: Float[Array, "heads"]
) -> Float[Array, "*batch heads query"]:
    """The share of the weights that a sink leaves to the keys.

    Args:
        log_sum: as `masked_logsumexp` gives it, of the keys alone.
        sinks: the score of each head's sink.

    Returns:
        In at least float32; 0 where no key is visible.
    """
    log_sum = at_least_float32(log_sum)
    beyond = log_sum - jnp.broadcast_to(sinks.astype(log_sum.dtype)[:, None], log_sum.shape)
    # Where no key is visible the share is 0, also beside a sink of -inf.
    return jax.nn.sigmoid(jnp.where(log_sum > -jnp.inf, beyond, -jnp.inf))
