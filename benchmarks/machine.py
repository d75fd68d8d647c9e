"""Speed of matrix products and exponentials on this machine, and the lower bound on the time of attention."""

import time
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import torch
from jax import lax

ROWS, DIM, REPEATS, ROUNDS = 512, 64, 40, 15


class Rates(NamedTuple):
    """The highest speeds that either framework reaches, on tiles of the size that attention uses.

    Attributes:
        products: multiplications and additions per second in float32 matrix products.
        exponentials: float32 exponentials per second.
    """

    products: float
    exponentials: float


@cache
def rates() -> Rates:
    """Measure the speeds, the best of many rounds; once per process."""
    key = jax.random.key(0)
    query, tile = jax.random.normal(key, (ROWS, DIM)), jax.random.normal(key, (ROWS, ROWS))

    @jax.jit
    def products(query: jax.Array) -> jax.Array:
        step = lambda _, x: x + 1e-9 * (jnp.einsum("qd,kd->qk", x, query) @ query)  # noqa: E731
        return lax.fori_loop(0, REPEATS, step, query)

    @jax.jit
    def exponentials(tile: jax.Array) -> jax.Array:
        return lax.fori_loop(0, REPEATS, lambda _, x: jnp.exp(0.5 * x - 1.0), tile)

    torch_query, torch_tile = torch.randn(ROWS, DIM), torch.randn(ROWS, ROWS)

    def torch_products() -> None:
        for _ in range(REPEATS):
            (torch_query @ torch_query.T) @ torch_query

    def torch_exponentials() -> None:
        for _ in range(REPEATS):
            torch.exp(torch_tile)

    operations = REPEATS * 4 * ROWS * ROWS * DIM
    return Rates(
        operations / min(_best(lambda: products(query).block_until_ready()), _best(torch_products)),
        REPEATS
        * ROWS
        * ROWS
        / min(_best(lambda: exponentials(tile).block_until_ready()), _best(torch_exponentials)),
    )


def _best(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def bound_ms(pairs: float, head_dim: int, backward: bool) -> float:
    """A lower bound on the time of attention on this machine, in milliseconds.

    Args:
        pairs: number of unmasked pairs of a query and a key, over all heads.
        head_dim: features of a head.
        backward: whether gradients are also computed: five more products, and the exponentials a second time.
    """
    products = pairs * 2 * head_dim * (7 if backward else 2)
    exponentials = pairs * (2 if backward else 1)
    return 1000 * (products / rates().products + exponentials / rates().exponentials)
