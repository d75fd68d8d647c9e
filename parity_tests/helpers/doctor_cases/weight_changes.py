"""Changes of a port's weights."""

import jax.numpy as jnp
import numpy as np
from flax import nnx


def part(port, path):
    """The submodule with a path."""
    for name in path.split("."):
        port = port[int(name)] if name.isdigit() else getattr(port, name)
    return port


def kernel(path, function):
    """A change of one matrix, given in float32."""

    def change(port):
        layer = part(port, path)
        old = layer.kernel.get_value()
        layer.kernel.set_value(jnp.asarray(function(np.asarray(old, np.float32)), old.dtype))

    return change


def both(*changes):
    """Several changes."""

    def change(port):
        for each in changes:
            each(port)

    return change


def copied(source, target):
    """A submodule with the weights of another one."""
    return lambda port: nnx.update(part(port, target), nnx.state(part(port, source)))


def swapped(one, other):
    """Two matrices of equal shapes that are exchanged."""

    def change(port):
        first, second = part(port, one).kernel, part(port, other).kernel
        old = first.get_value()
        first.set_value(second.get_value())
        second.set_value(old)

    return change


def noise(path, seed=8):
    """Another matrix."""
    return kernel(
        path, lambda w: 0.2 * np.random.default_rng(seed).standard_normal(w.shape).astype(np.float32)
    )


def no_bias(path):
    """A bias of zeros."""

    def change(port):
        bias = part(port, path).bias
        bias.set_value(jnp.zeros_like(bias.get_value()))

    return change


def rounded(dtype):
    """All weights rounded to a dtype on the way."""

    def change(port):
        for _, layer in nnx.iter_modules(port):
            for name in ("kernel", "embedding", "scale", "bias"):
                held = getattr(layer, name, None)
                if isinstance(held, nnx.Param) and held.get_value() is not None:
                    old = held.get_value()
                    held.set_value(old.astype(dtype).astype(old.dtype))

    return change


def to_int8(w):
    """A matrix rounded to 255 levels."""
    step = np.abs(w).max() / 127
    return np.rint(w / step) * step


def shard(w):
    """A square matrix, one half of which is transposed."""
    w, half = w.copy(), len(w) // 2
    w[:half] = w[:, :half].T
    return w
