"""What the compilers of other chips make of a program, on a machine that has no such chip.

The TPU's compiler comes in the package `libtpu`; it compiles for a chip that is only described. For NVIDIA's GPUs a
program goes as far as StableHLO, which is what their compiler is given. Nothing is run.
"""

import os
import re
from collections.abc import Callable, Iterator
from functools import cache, partial
from math import prod
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.sharding import SingleDeviceSharding

from attention_bridge.catalogue import Mechanism
from attention_bridge.catalogue.part import jax_shapes
from attention_bridge.errors import InputError, require
from attention_bridge.parity import instances
from attention_bridge.parity.run import arguments_in_jax, forward_backward, is_float

CHIPS = {
    "v4": "v4:2x2x1",
    "v5e": "v5e:2x2",
    "v5p": "v5p:2x2x1",
    "v6e": "v6e:2x2",
    "v7x": "tpu7x:2x2x1",
}
# In HLO the kernels that Pallas makes for TPU, by their own names; in StableHLO those of cuDNN.
KERNEL = re.compile(r'%([\w-]+)[\w.-]* = .*custom_call_target="tpu_custom_call"|custom_call @(__cudnn\$\w+)')
CUDNN = [f"__cudnn$fmha{name}Softmax{way}" for name in ("", "ScaleBias") for way in ("", "Backward")]
FOREIGN = {
    "float64": re.compile(r"(?:\b|x)f64\b|\bc128\b"),
    "a call of the host": re.compile(
        r'custom_call_target="[^"]*callback|custom_call @\w*callback|is_host_transfer\s*=\s*true|\b(?:in|out)feed\b'
    ),
}


class Program(NamedTuple):
    """A function and the shapes that it is compiled for.

    Attributes:
        name: what it is called in tables.
        function: of arrays, or of trees of arrays.
        arguments: the same trees of `jax.ShapeDtypeStruct`.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Compiled(NamedTuple):
    """What a compiler says of a program.

    Attributes:
        name: of the program.
        chip: one of `CHIPS`.
        flops: as the compiler counts them; the body of a loop counts once.
        bytes_accessed: read and written, counted in the same way.
        temporary: bytes of main memory besides arguments and results; what fits into a chip's own is not among them.
        kernels: the names of the kernels written by hand that it calls, see `kernels`.
        foreign: what is in it that no program for a chip should hold, see `foreign`.
        hlo: the program after optimisation, as text.
    """

    name: str
    chip: str
    flops: float
    bytes_accessed: float
    temporary: int
    kernels: tuple[str, ...]
    foreign: tuple[str, ...]
    hlo: str


def program_of(
    mechanism: Mechanism, *, dtype: str = "float32", case: str | None = None, need_weights: bool = True
) -> Program:
    """A mechanism of the catalogue as the proof runs it: its outputs and all gradients, in evaluation mode.

    Args:
        mechanism: what to build from the JAX mirror.
        dtype: of its parameters and inputs.
        case: one of the proof's kinds of mask; None for one that can hide anything, where it takes masks.
        need_weights: whether weights are returned; without, only `output` has gradients taken.
    """
    case = case or ("empty row" if mechanism.masks else "none")
    given = instances.with_full_masks(mechanism, instances.inputs(mechanism, case))
    given = {name: x.astype(instances.numpy_dtype(dtype)) if is_float(x) else x for name, x in given.items()}
    module = jax_shapes(mechanism.module, {"param_dtype": dtype, "dropout": instances.DROPOUT})
    module.eval()
    graphdef, *arrays, static, counted, positional = arguments_in_jax(
        module, {**given, **mechanism.options(need_weights)}, None if need_weights else ("output",)
    )
    function = partial(
        forward_backward, graphdef, static=static, loss_over=counted, positional=positional
    )  # of parameters, other variables, floats and other inputs
    return Program(mechanism.name, function, tuple(jax.tree.map(_shape, arrays)))


def gradients_of(name: str, function: Callable[..., jax.Array], shapes: list[Any]) -> Program:
    """The gradients of the sum of a function with respect to all its arguments, as a program."""

    def total(*arrays: jax.Array) -> jax.Array:
        return function(*arrays).astype(jnp.float32).sum()

    return Program(name, jax.grad(total, tuple(range(len(shapes)))), tuple(shapes))


def compile_for(program: Program, chip: str = "v5e") -> Compiled:
    """Compile a program for one chip of a described TPU.

    Raises:
        InputError: there is no such chip, or `libtpu` is not installed.
    """
    sharding = SingleDeviceSharding(tpu_devices(_topology(chip))[0])
    placed = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), program.arguments
    )
    lowered = jax.jit(program.function).trace(*placed).lower(lowering_platforms=("tpu",))
    compiled = lowered.compile()
    hlo, costs = compiled.as_text() or "", compiled.cost_analysis()
    return Compiled(
        name=program.name,
        chip=chip,
        flops=costs.get("flops", 0.0),
        bytes_accessed=costs.get("bytes accessed", 0.0),
        temporary=compiled.memory_analysis().temp_size_in_bytes,
        kernels=kernels(hlo),
        foreign=foreign(lowered.as_text() + hlo),
        hlo=hlo,
    )


def export_for(program: Program, platform: str = "cuda") -> str:
    """The StableHLO of a program for a platform that need not be here."""
    checks = [jax.export.DisabledSafetyCheck.custom_call(name) for name in CUDNN]  # whose form may yet change
    export = jax.export.export(jax.jit(program.function), platforms=[platform], disabled_checks=checks)
    return str(export(*program.arguments).mlir_module())


@cache
def tpu_devices(topology: str) -> tuple[jax.Device, ...]:
    """The chips of a TPU that is only described, such as `v5e:2x2` or `v5p:4x4x4`: to compile for, not to run on.

    Raises:
        InputError: `libtpu` is not installed.
    """
    require(("libtpu",), extra="tpu-aot")
    if not any(device.platform == "tpu" for device in jax.devices()):
        # libtpu locks a chip for one process and asks the network where it runs; here is neither chip nor network.
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    # jaxlib has read its flags by now; libtpu ends the process over one that it does not know.
    os.environ.pop("XLA_FLAGS", None)
    return tuple(topologies.get_topology_desc(topology, "tpu").devices)


def kernels(text: str) -> tuple[str, ...]:
    """The kernels written by hand that HLO or StableHLO calls, each once: those of Pallas for TPU, and cuDNN's."""
    return tuple(sorted({pallas or cudnn for pallas, cudnn in KERNEL.findall(text)}))


def foreign(text: str) -> tuple[str, ...]:
    """What HLO or StableHLO holds that no program for a chip should: `float64`, and `a call of the host`."""
    return tuple(name for name, pattern in FOREIGN.items() if pattern.search(text))


def product_flops(program: Program) -> int:
    """Multiplications and additions in the matrix products of a program, a loop's body as often as it runs.

    Both sides of a branch count.

    Raises:
        InputError: there are products in a loop whose number of turns depends on what is computed.
    """
    return _product_flops(jax.make_jaxpr(program.function)(*program.arguments).jaxpr)


def _product_flops(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, options = equation.primitive.name, equation.params
        inside = sum(map(_product_flops, _jaxprs(options)))
        if name == "while" and inside:
            raise InputError(
                "product_flops counts loops whose turns are known, got a while loop with products in it"
            )
        total += inside * (options["length"] if name == "scan" else 1)
        if name == "dot_general":
            summed_axes, _ = options["dimension_numbers"][0]
            left: Any = equation.invars[0].aval
            result: Any = equation.outvars[0].aval
            total += 2 * prod(result.shape) * prod(left.shape[axis] for axis in summed_axes)
    return total


def _jaxprs(options: dict[str, Any]) -> Iterator[Jaxpr]:
    """The programs within an equation."""
    for leaf in jax.tree.leaves(options, is_leaf=lambda x: isinstance(x, ClosedJaxpr | Jaxpr)):
        if isinstance(leaf, ClosedJaxpr):
            yield leaf.jaxpr
        elif isinstance(leaf, Jaxpr):
            yield leaf


def _topology(chip: str) -> str:
    if chip not in CHIPS:
        raise InputError(f"chip must be one of {', '.join(CHIPS)}, got {chip}")
    return CHIPS[chip]


def _shape(x: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)
