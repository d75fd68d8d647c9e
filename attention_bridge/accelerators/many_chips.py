"""Ahead-of-time compilation of sharded programs for many TPU chips, on a machine without any.

The chips are only descriptions, as in `compilation`. The shardings of the arguments place the data, and the compiled
program shows the memory of each chip and the collectives between them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from attention_bridge.accelerators.compilation import Program, gradients_of, kernels, tpu_devices
from jax_attention.models import LanguageModel, ModelSpec
from jax_attention.ops import dot_product_attention
from jax_attention.sharding import DATA, MODEL, SEQUENCE, on_mesh, placements

COLLECTIVE = re.compile(
    r" = .*? (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


class Shared(NamedTuple):
    """Sharded program compiled for many chips, with the compiler's figures.

    Attributes:
        name: name of the program.
        chips: number of chips.
        collectives: number of collectives of each kind, such as `all-gather`, in the program.
        arguments: bytes of the arguments on each chip.
        temporary: bytes of HBM that each chip needs besides arguments and results.
        kernels: names of the Pallas kernels that the program calls.
        hlo: text of the optimised HLO of one chip.
    """

    name: str
    chips: int
    collectives: dict[str, int]
    arguments: int
    temporary: int
    kernels: tuple[str, ...]
    hlo: str


def described_mesh(topology: str, sizes: Mapping[str, int]) -> Mesh:
    """Mesh of the first chips of a TPU topology, such as `v5e:4x4`, for compilation only.

    Args:
        topology: name of the topology.
        sizes: size of each mesh axis by its name.

    Raises:
        InputError: `libtpu` is not installed.
    """
    chips = np.array(tpu_devices(topology)[: prod(sizes.values())], dtype=object)
    return Mesh(chips.reshape(*sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def compile_on(program: Program, mesh: Mesh) -> Shared:
    """Compile a program for all chips of a mesh; its arguments carry their shardings."""
    with on_mesh(mesh):
        lowered = jax.jit(program.function).trace(*program.arguments).lower(lowering_platforms=("tpu",))
        compiled = lowered.compile()
    hlo, memory = compiled.as_text() or "", compiled.memory_analysis()
    return Shared(
        name=program.name,
        chips=mesh.size,
        collectives=dict(sorted(Counter(COLLECTIVE.findall(hlo)).items())),
        arguments=memory.argument_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        kernels=kernels(hlo),
        hlo=hlo,
    )


def attention_on(
    mesh: Mesh, shape: tuple[int, int, int, int], implementation: str | None = None, dtype: str = "bfloat16"
) -> Program:
    """The gradients of causal attention on `(batch, heads, length, head_dim)`, sharded along the mesh's axes."""
    where = NamedSharding(mesh, _spec(mesh, DATA, MODEL, SEQUENCE))
    shapes: list[Any] = [jax.ShapeDtypeStruct(shape, dtype, sharding=where)] * 3

    def function(*arrays: jax.Array) -> jax.Array:
        return dot_product_attention(*arrays, is_causal=True, implementation=implementation)

    return gradients_of(implementation or "attention", function, shapes)


def decoder_on(mesh: Mesh, config: ModelSpec, tokens: tuple[int, int]) -> Program:
    """The gradients of all parameters of a decoder on tokens of shape `(batch, length)`, sharded on the mesh."""
    model = nnx.eval_shape(lambda: LanguageModel(config, rngs=nnx.Rngs(0), param_dtype="bfloat16"))
    model.eval()
    graphdef, state = nnx.split(model)
    where = placements(model, mesh)
    placed = nnx.from_flat_state(
        [
            (path, leaf.replace(_placed(leaf, where[".".join(map(str, path))])))
            for path, leaf in nnx.to_flat_state(state)
        ]
    )
    given = jax.ShapeDtypeStruct(tokens, "int32", sharding=NamedSharding(mesh, _spec(mesh, DATA, SEQUENCE)))

    def loss(state: nnx.State[Any, Any], tokens: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(nnx.merge(graphdef, state)(tokens).output, axis=-1).mean()

    return Program("decoder", jax.grad(loss), (placed, given))


def _spec(mesh: Mesh, *axes: str) -> PartitionSpec:
    return PartitionSpec(*(axis if axis in mesh.axis_names else None for axis in axes))


def _placed(leaf: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
