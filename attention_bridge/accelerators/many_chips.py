"""What the TPU's compiler makes of a program that many chips share, on a machine that has none of them.

The chips are only described, see `compiling`; which of them holds what is told by the arguments' placements, and the
compiler says what each must keep and what they must say to each other.
"""

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
    """What the compiler says of a program on many chips.

    Attributes:
        name: of the program.
        chips: how many there are.
        collectives: how often each kind of talk between chips stands in the program.
        arguments: bytes of what each chip is given.
        temporary: bytes of main memory that each needs besides arguments and results.
        kernels: the names of the kernels written by hand that it calls.
        hlo: the program of one chip after optimisation, as text.
    """

    name: str
    chips: int
    collectives: dict[str, int]
    arguments: int
    temporary: int
    kernels: tuple[str, ...]
    hlo: str


def described_mesh(topology: str, sizes: Mapping[str, int]) -> Mesh:
    """The first chips of a TPU that is only described, such as `v5e:4x4`, in a grid with axes of these names and sizes.

    Raises:
        InputError: `libtpu` is not installed.
    """
    chips = np.array(tpu_devices(topology)[: prod(sizes.values())], dtype=object)
    return Mesh(chips.reshape(*sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def compile_on(program: Program, mesh: Mesh) -> Shared:
    """Compile a program, whose arguments say where on the mesh they are, for all its chips."""
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
    """The gradients of causal attention on `(batch, heads, length, head_dim)`, shared out along the mesh's axes."""
    where = NamedSharding(mesh, _spec(mesh, DATA, MODEL, SEQUENCE))
    shapes: list[Any] = [jax.ShapeDtypeStruct(shape, dtype, sharding=where)] * 3

    def function(*arrays: jax.Array) -> jax.Array:
        return dot_product_attention(*arrays, is_causal=True, implementation=implementation)

    return gradients_of(implementation or "attention", function, shapes)


def decoder_on(mesh: Mesh, config: ModelSpec, tokens: tuple[int, int]) -> Program:
    """The gradients of all parameters of a decoder that reads so many tokens, `(batch, length)`."""
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

    def loss(state: nnx.State, tokens: jax.Array) -> jax.Array:
        return jax.nn.logsumexp(nnx.merge(graphdef, state)(tokens).output, axis=-1).mean()

    return Program("decoder", jax.grad(loss), (placed, given))


def _spec(mesh: Mesh, *axes: str) -> PartitionSpec:
    return PartitionSpec(*(axis if axis in mesh.axis_names else None for axis in axes))


def _placed(leaf: Any, where: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)
