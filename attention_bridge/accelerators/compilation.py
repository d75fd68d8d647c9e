"""Ahead-of-time compilation of programs for TPUs and GPUs, on a machine without such a chip.

For TPUs the compiler in the package `libtpu` compiles for a chip description. For NVIDIA GPUs a program is exported as
StableHLO, the input of their compiler. Nothing is run.
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
# Pallas kernels for TPU in HLO, by their own names; cuDNN kernels in StableHLO.
KERNEL = re.compile(r'%([\w-]+)[\w.-]* = .*custom_call_target="tpu_custom_call"|custom_call @(__cudnn\$\w+)')
CUDNN = [f"__cudnn$fmha{name}Softmax{way}" for name in ("", "ScaleBias") for way in ("", "Backward")]
FOREIGN = {
    "float64": re.compile(r"(?:\b|x)f64\b|\bc128\b"),
    "host callback": re.compile(
        r'custom_call_target="[^"]*callback|custom_call @\w*callback|is_host_transfer\s*=\s*true|\b(?:in|out)feed\b'
    ),
}


class Program(NamedTuple):
    """A function and the shapes that it is compiled for.

    Attributes:
        name: name of the program in tables.
        function: function of arrays, or of trees of arrays.
        arguments: shapes of the arguments, as trees of `jax.ShapeDtypeStruct`.
    """

    name: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


class Compiled(NamedTuple):
    """Compiled program with the compiler's cost and memory figures.

    Attributes:
        name: name of the program.
        chip: name of the chip, one of `CHIPS`.
        flops: floating-point operations as the compiler counts them; the body of a loop counts once.
        bytes_accessed: bytes read and written; the body of a loop counts once.
        temporary: bytes of HBM besides arguments and results, without on-chip memory.
        kernels: names of the Pallas or cuDNN kernels that the program calls.
        foreign: parts that no program for a chip should have, `float64` or `host callback`; empty if there are none.
        hlo: text of the optimised HLO.
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
    """The program of a mechanism as the proof runs it: outputs and all gradients, in evaluation mode.

    Args:
        mechanism: mechanism to build from the JAX mirror.
        dtype: dtype of its parameters and inputs.
        case: kind of mask, as in the proof; None for a mask with fully masked rows, or no mask if it takes none.
        need_weights: whether attention weights are returned; if not, only `output` has gradients.
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
    """The program of the gradients of a function's summed output with respect to all arguments."""

    def total(*arrays: jax.Array) -> jax.Array:
        return function(*arrays).astype(jnp.float32).sum()

    return Program(name, jax.grad(total, tuple(range(len(shapes)))), tuple(shapes))


def compile_for(program: Program, chip: str = "v5e") -> Compiled:
    """Compile a program for one chip of a TPU that need not be present.

    Raises:
        InputError: the chip is unknown, or `libtpu` is not installed.
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
    """Export a program as StableHLO for a platform that need not be present."""
    checks = [
        jax.export.DisabledSafetyCheck.custom_call(name) for name in CUDNN
    ]  # their format may still change
    export = jax.export.export(jax.jit(program.function), platforms=[platform], disabled_checks=checks)
    return str(export(*program.arguments).mlir_module())


@cache
def tpu_devices(topology: str) -> tuple[jax.Device, ...]:
    """Descriptions of the chips of a TPU topology, such as `v5e:2x2`, for compilation only.

    Raises:
        InputError: `libtpu` is not installed.
    """
    require(("libtpu",), extra="tpu-aot")
    if not any(device.platform == "tpu" for device in jax.devices()):
        # Without these, libtpu locks a chip for one process and queries the network; here it needs neither.
        os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
    # jaxlib has already read its flags; libtpu aborts the process on an unknown one.
    os.environ.pop("XLA_FLAGS", None)
    return tuple(topologies.get_topology_desc(topology, "tpu").devices)


def kernels(text: str) -> tuple[str, ...]:
    """Names of the Pallas kernels (TPU) and cuDNN kernels that HLO or StableHLO calls, each once."""
    return tuple(sorted({pallas or cudnn for pallas, cudnn in KERNEL.findall(text)}))


def foreign(text: str) -> tuple[str, ...]:
    """Parts of HLO or StableHLO that no program for a chip should have: `float64` and `host callback`."""
    return tuple(name for name, pattern in FOREIGN.items() if pattern.search(text))


def product_flops(program: Program) -> int:
    """Count the multiplications and additions in the matrix products of a program.

    A loop's body counts as often as it runs; both sides of a branch count.

    Raises:
        InputError: a loop whose number of iterations is not known beforehand has matrix products.
    """
    return _product_flops(jax.make_jaxpr(program.function)(*program.arguments).jaxpr)


def _product_flops(jaxpr: Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, options = equation.primitive.name, equation.params
        inside = sum(map(_product_flops, _jaxprs(options)))
        if name == "while" and inside:
            raise InputError(
                "product_flops needs loops with a known number of iterations, got a while loop with matrix products"
            )
        total += inside * (options["length"] if name == "scan" else 1)
        if name == "dot_general":
            summed_axes, _ = options["dimension_numbers"][0]
            left: Any = equation.invars[0].aval
            result: Any = equation.outvars[0].aval
            total += 2 * prod(result.shape) * prod(left.shape[axis] for axis in summed_axes)
    return total


def _jaxprs(options: dict[str, Any]) -> Iterator[Jaxpr]:
    """The jaxprs nested in the parameters of an equation."""
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
