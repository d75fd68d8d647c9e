"""Sums over a number of tiles that depends on the input, with reverse-mode derivatives of any order."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Int


def tile_count(members: Int[Array, " batch"], most: int, size: int) -> Any:
    """Number of tiles of `size` that cover the members of every batch element; at least one.

    Each batch element has its `members` first, in an axis of length `most`. Compiled PyTorch code does not know the
    number of members, and uses all tiles.
    """
    return jnp.clip(-(-members.max() // size), 1, max(1, -(-most // size)))


def sum_of_tiles(count: Any, term: Callable[[Any], Any]) -> Any:
    """Sum of `term(0)`, ..., `term(count - 1)`, each an array or a tuple of arrays."""
    closed, shapes = jax.make_jaxpr(term, return_shape=True)(jnp.int32(0))
    found = _sum(closed.jaxpr, count, tuple(closed.consts))
    return jax.tree.unflatten(jax.tree.structure(shapes), found)


def maximum_of_tiles(count: Any, term: Callable[[Any], Array]) -> Array:
    """Elementwise maximum over the tiles, without a gradient."""
    closed = jax.make_jaxpr(term)(jnp.int32(0))
    consts = [lax.stop_gradient(x) for x in closed.consts]

    def step(number: Any, found: Array) -> Array:
        return jnp.maximum(found, jax.core.eval_jaxpr(closed.jaxpr, consts, number)[0])

    aval = closed.out_avals[0]
    return lax.fori_loop(0, count, step, jnp.full(aval.shape, -jnp.inf, aval.dtype))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sum(jaxpr: Any, count: Any, consts: tuple[Any, ...]) -> list[Array]:
    def step(number: Any, total: list[Array]) -> list[Array]:
        return [x + y for x, y in zip(total, jax.core.eval_jaxpr(jaxpr, consts, number), strict=True)]

    return lax.fori_loop(0, count, step, [jnp.zeros(x.aval.shape, x.aval.dtype) for x in jaxpr.outvars])


def _forward(jaxpr: Any, count: Any, consts: tuple[Any, ...]) -> Any:
    return _sum(jaxpr, count, consts), (count, consts)


def _backward(jaxpr: Any, kept: Any, d_total: list[Array]) -> Any:
    """Gradient of a sum, as a sum over the same tiles, which is differentiable again."""
    count, consts = kept
    learned = [i for i, x in enumerate(consts) if jnp.issubdtype(jnp.result_type(x), jnp.inexact)]

    def term(number: Any) -> tuple[Array, ...]:
        def of_learned(*values: Any) -> list[Array]:
            given = list(consts)
            for i, x in zip(learned, values, strict=True):
                given[i] = x
            return jax.core.eval_jaxpr(jaxpr, given, number)

        _, pull = jax.vjp(of_learned, *(consts[i] for i in learned))
        return pull(d_total)

    gradients: list[Any] = [None] * len(consts)
    for i, x in zip(learned, sum_of_tiles(count, term) if learned else (), strict=True):
        gradients[i] = x
    return None, tuple(gradients)


_sum.defvjp(_forward, _backward)
