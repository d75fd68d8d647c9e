"""Gradients of convolutions on eight simulated devices, against one device: prints the largest error of each."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from jax_attention.layers import conv1d, conv2d, convolve
from jax_attention.sharding import DATA, MODEL, SEQUENCE, make_mesh, on_mesh

LAYERS = {
    "plain": lambda f: conv1d(6, 4, 3, padding=1, **f),
    "strided": lambda f: conv1d(6, 4, 2, stride=2, **f),
    "depthwise": lambda f: conv1d(6, 6, 3, groups=6, **f),
    "depthwise, padded": lambda f: conv1d(6, 6, 3, groups=6, padding=1, **f),
    "in groups": lambda f: conv1d(6, 4, 3, groups=2, **f),
    "depthwise, of images": lambda f: conv2d(6, 6, (3, 1), groups=6, padding=(1, 0), **f),
}
PLACED = ((DATA,), (DATA, SEQUENCE), (DATA, None, MODEL), (None, None, MODEL), ())


def error(layer, x, placed, mesh):
    """The largest error of an output or a gradient, relative to the largest value."""
    graphdef, state = nnx.split(layer)

    def loss(state, x):
        output = convolve(nnx.merge(graphdef, state), x)
        return jnp.square(output).sum(), output

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    right = run(state, x)
    with on_mesh(mesh):
        there = jax.device_put(x, NamedSharding(mesh, PartitionSpec(*placed)))
        found = jax.jit(run)(state, there)
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(right), strict=True)
    return max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max()) for a, b in pairs
    )


def main():
    """Print a line per convolution and placement."""
    jax.config.update("jax_enable_x64", True)
    mesh = make_mesh({DATA: 2, MODEL: 2, SEQUENCE: 2})
    rng = np.random.default_rng(0)
    for name, made in LAYERS.items():
        layer = made({"rngs": nnx.Rngs(0), "param_dtype": "float64"})
        shape = (4, 8, 8, 6) if "images" in name else (4, 8, 6)
        x = jnp.asarray(rng.standard_normal(shape))
        for placed in PLACED:
            print(error(layer, x, placed, mesh), name, *placed, sep="|")


if __name__ == "__main__":
    main()
