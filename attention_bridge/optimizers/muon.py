"""Muon's update direction in optax, as `torch.optim.Muon` computes it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from attention_bridge.optimizers.matrices import Matrices, Matrix
from attention_bridge.optimizers.names import leaf_name
from attention_bridge.optimizers.steps import Rate


class MuonMomentumState(NamedTuple):
    """The state of `scale_by_torch_muon`.

    Attributes:
        count: number of steps taken, the index of a scheduled momentum.
        mu: exponential moving average of the gradients.
    """

    count: jax.typing.ArrayLike  # type: ignore[assignment]  # optax's name, which hides `tuple.count`
    mu: optax.Updates


def scale_by_torch_muon(
    momentum: Rate,
    matrices: Matrices,
    *,
    nesterov: bool,
    coefficients: tuple[float, float, float],
    eps: float,
    steps: int,
    adjustment: str | None,
) -> optax.GradientTransformation:
    """Muon's update direction as in `torch.optim.Muon`: the orthogonalised momentum, times a factor of its shape.

    `optax.contrib.muon` corrects the bias of the momentum, adds eps to the norm, iterates in the parameters' dtype and
    takes the axes of every array in JAX for inputs and outputs. PyTorch corrects no bias, takes the larger of norm and
    eps, iterates in bfloat16 and takes the rows of its own matrices for outputs. Source: Jordan et al., "Muon: an
    optimizer for hidden layers in neural networks", 2024.

    Args:
        momentum: decay rate of the moving average, or a schedule of it.
        matrices: the rows and columns of each leaf.
        nesterov: whether to use Nesterov momentum.
        coefficients: coefficients of X, (XX')X and (XX')(XX')X in a Newton-Schulz iteration.
        eps: least norm to divide by.
        steps: number of Newton-Schulz iterations.
        adjustment: "original" or None for sqrt(max(1, rows / columns)), "match_rms_adamw" for
            0.2 sqrt(max(rows, columns)).

    Returns:
        A transformation with a `MuonMomentumState`.
    """

    def init(params: optax.Params) -> MuonMomentumState:
        return MuonMomentumState(jnp.zeros([], jnp.int32), optax.tree.zeros_like(params))

    def update(
        updates: optax.Updates, state: MuonMomentumState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MuonMomentumState]:
        kept = momentum(state.count) if callable(momentum) else momentum
        mu = jax.tree.map(lambda g, m: (m + (1 - kept) * (g - m)).astype(m.dtype), updates, state.mu)
        ahead = mu
        if nesterov:
            ahead = jax.tree.map(lambda g, m: (m - (1 - kept) * (m - g)).astype(m.dtype), updates, mu)

        def direct(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
            matrix = matrices[leaf_name(path)]
            assert matrix is not None  # torch.optim.Muon takes matrices only
            found = _orthogonalised(_rows_first(x, matrix), coefficients, eps, steps)
            return _factor(matrix, adjustment) * _as_leaf(found, x, matrix).astype(x.dtype)

        direction = jax.tree_util.tree_map_with_path(direct, ahead)
        return direction, MuonMomentumState(optax.safe_increment(state.count), mu)

    return optax.GradientTransformation(init, update)


def _factor(matrix: Matrix, adjustment: str | None) -> float:
    rows, columns = matrix.shape
    if adjustment == "match_rms_adamw":
        return 0.2 * math.sqrt(max(rows, columns))
    return math.sqrt(max(1, rows / columns))


def _order(x: jax.Array, matrix: Matrix) -> tuple[int, ...]:
    """The axes of a leaf, rows first; axes of size 1 are last."""
    moved = matrix.rows + matrix.columns
    return moved + tuple(axis for axis in range(x.ndim) if axis not in moved)


def _rows_first(x: jax.Array, matrix: Matrix) -> jax.Array:
    return x.transpose(_order(x, matrix)).reshape(matrix.shape)  # rows columns


def _as_leaf(found: jax.Array, x: jax.Array, matrix: Matrix) -> jax.Array:
    order = _order(x, matrix)
    back = sorted(range(x.ndim), key=order.__getitem__)
    return found.reshape([x.shape[axis] for axis in order]).transpose(back)


def _orthogonalised(
    matrix: jax.Array, coefficients: tuple[float, float, float], eps: float, steps: int
) -> jax.Array:
    """Newton-Schulz iterations in bfloat16; products are summed in float32 and rounded once, as in PyTorch."""
    a, b, c = coefficients
    wide = matrix.shape[0] <= matrix.shape[1]
    x = _round((matrix if wide else matrix.T).astype(jnp.float32))
    norm = _round(jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)))))
    least = jnp.maximum(norm.astype(jnp.float32), _round(jnp.float32(eps)).astype(jnp.float32))
    x = _round(x.astype(jnp.float32) / least)
    for _ in range(steps):
        gram = _round(_product(x, x.T))
        change = _round(b * gram.astype(jnp.float32) + c * _product(gram, gram))
        x = _round(a * x.astype(jnp.float32) + _product(change, x))
    return (x if wide else x.T).astype(jnp.float32)


def _product(x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.matmul(x, y, preferred_element_type=jnp.float32)


def _round(x: jax.Array) -> jax.Array:
    """Round float32 to bfloat16; a cast alone may be left out by the compiler."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7).astype(jnp.bfloat16)
