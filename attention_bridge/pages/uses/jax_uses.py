"""Trials of the tools of JAX and Flax NNX on a mechanism, one function per tool.

Each takes a catalogue entry, tries the tool, and returns `"yes"` or the reason for a failure in one sentence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial, wraps
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array, export

from attention_bridge.catalogue import Mechanism
from attention_bridge.catalogue.part import build
from attention_bridge.pages.uses.examples import FREE
from attention_bridge.parity.instances import jax_module
from attention_bridge.parity.run import named_outputs

YES = "yes"
LENGTHS = ("query", "key", "height", "width")
MULTIPLES = ("block_size", "chunk_length", "num_landmarks")  # arguments that must divide a length
STEPS = (*MULTIPLES, "window_size", "reduction")  # a length must be a multiple of one of these
Shapes = dict[str, jax.ShapeDtypeStruct]
Arrays = dict[str, Array]


def shapes(
    mechanism: Mechanism,
    sizes: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float32",
    optional: bool = True,
) -> Shapes:
    """The shapes of a call's arrays, at the catalogue's sizes except for `sizes`.

    Args:
        mechanism: the mechanism to call.
        sizes: sizes by axis, integers or symbols of `jax.export`; None for the catalogue's.
        dtype: dtype of the floating-point inputs.
        optional: whether optional arguments, such as masks and positions, are included.
    """
    axes = {name: (axes, dtype) for name, axes in mechanism.inputs.items()}
    axes |= {name: (axes, "int32") for name, axes in mechanism.tokens.items()}
    given = {axis for each, _ in axes.values() for axis in each}
    if optional:
        axes |= {
            name: (found, dtype if x.dtype.kind == "f" else "bool" if x.dtype.kind == "b" else "int32")
            for name, x in mechanism.arguments.items()
            if (found := _axes_of(mechanism, x)) is not None
        }
        axes |= {name: (each, "bool") for name, each in mechanism.masks.items()}
    changed = {axis: size for axis, size in (sizes or {}).items() if axis in given}
    known = {**mechanism.sizes, **changed}
    return {
        name: jax.ShapeDtypeStruct(tuple(known.get(axis, axis) for axis in each), jnp.dtype(kind))
        for name, (each, kind) in axes.items()
    }


def arrays(like: Shapes, *, hidden: bool = False) -> Arrays:
    """Random arrays of the given shapes; with `hidden` the masks have fully masked rows."""
    rng = np.random.default_rng(4)
    made: Arrays = {}
    for name, x in like.items():
        if x.dtype == jnp.bool_:
            visible = rng.random(x.shape) < 0.7
            made[name] = jnp.asarray(visible & (rng.random((*x.shape[:-1], 1)) < 0.5) if hidden else visible)
        elif jnp.issubdtype(x.dtype, jnp.integer):
            made[name] = jnp.asarray(rng.integers(0, 5, x.shape), x.dtype)
        else:
            made[name] = jnp.asarray(rng.standard_normal(x.shape), x.dtype)
    return made


def calls(mechanism: Mechanism) -> Iterator[tuple[dict[str, bool], bool]]:
    """The variants of the call: with and without weights, with and without masks and positions."""
    options = [{"need_weights": need} for need in (True, False)] if mechanism.weights else [{}]
    return ((option, optional) for option in options for optional in (True, False))


def runner(
    mechanism: Mechanism, options: Mapping[str, bool], dtype: str = "float32"
) -> tuple[Callable[[nnx.State[Any, Any], Arrays], Arrays], nnx.State[Any, Any]]:
    """The call of a mechanism as a function of parameters and arrays, and the parameters."""
    graph, *states = nnx.split(jax_module(mechanism, dtype), nnx.Param, ...)
    parameters, rest = states

    def run(parameters: nnx.State[Any, Any], given: Arrays) -> Arrays:
        return named_outputs(nnx.merge(graph, parameters, rest)(**given, **options))

    return run, parameters


def loss_of(
    run: Callable[[nnx.State[Any, Any], Arrays], Arrays],
) -> Callable[[nnx.State[Any, Any], Arrays, Arrays], Array]:
    """A scalar loss of all outputs, as a function of parameters, floating-point arrays and other arrays."""

    def loss(parameters: nnx.State[Any, Any], floats: Arrays, others: Arrays) -> Array:
        outputs = run(parameters, {**floats, **others})
        return sum((jnp.sin(x.astype(jnp.float32)).sum() for x in outputs.values()), jnp.float32(0))

    return loss


def parted(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split arrays into floating-point ones and others."""
    floats = {name: x for name, x in given.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    return floats, {name: x for name, x in given.items() if name not in floats}


def traced(
    mechanism: Mechanism, mode: Callable[[], AbstractContextManager[Any]], dtype: str = "float32"
) -> str:
    """Trace every variant of the call, forward and gradient, under a mode of JAX."""
    for options, optional in calls(mechanism):
        run, parameters = runner(mechanism, options, dtype)
        floats, others = parted(shapes(mechanism, dtype=dtype, optional=optional))
        with mode():
            jax.eval_shape(run, parameters, {**floats, **others})
            jax.eval_shape(jax.grad(loss_of(run), (0, 1)), parameters, floats, others)
    return YES


def strict_ranks(mechanism: Mechanism) -> str:
    """Tracing works with `jax_numpy_rank_promotion="raise"`."""
    return traced(mechanism, partial(jax.numpy_rank_promotion, "raise"))


def strict_dtypes(mechanism: Mechanism) -> str:
    """Tracing works with `jax_numpy_dtype_promotion="strict"`, in float32 and in bfloat16."""
    mode = partial(jax.numpy_dtype_promotion, "strict")
    return traced(mechanism, mode) and traced(mechanism, mode, "bfloat16")


def leak_checks(mechanism: Mechanism) -> str:
    """Tracing works with `jax_check_tracer_leaks`."""
    return traced(mechanism, jax.checking_leaks)


def debug_nans(mechanism: Mechanism) -> str:
    """No NaN under `jax_debug_nans`, forward and gradient, with fully masked rows."""
    for options, optional in calls(mechanism):
        run, parameters = runner(mechanism, options)
        floats, others = parted(arrays(shapes(mechanism, optional=optional), hidden=True))
        with jax.debug_nans(True):
            jax.block_until_ready(
                jax.jit(jax.value_and_grad(loss_of(run), (0, 1)))(parameters, floats, others)
            )
    return YES


def symbolic(mechanism: Mechanism) -> dict[str, Any]:
    """Symbolic sizes of the batch and of each varying length; multiples where the mechanism needs them."""
    arguments = mechanism.module.arguments
    axes = [axis for axes in (*mechanism.inputs.values(), *mechanism.tokens.values()) for axis in axes]
    used = [axis for axis in ("batch", *LENGTHS) if axis in axes]
    if "grid_size" in arguments:
        used = ["batch"]
    step = _step(mechanism)
    names = [axis if step == 1 or axis == "batch" else f"{step}*{axis}" for axis in used]
    most = arguments.get("length")
    limits = [] if most is None else [f"query <= {most}"]
    return dict(zip(used, export.symbolic_shape(", ".join(names), constraints=limits), strict=True))


def exported(mechanism: Mechanism) -> str:
    """`jax.export` with symbolic sizes gives equal outputs at two other sizes."""
    symbols = symbolic(mechanism)
    for options, optional in calls(mechanism):
        run, parameters = runner(mechanism, options)
        run = jax.jit(run)
        program = export.export(run)(
            jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), parameters),
            shapes(mechanism, symbols, optional=optional),
        )
        for step in (-1, 1):
            given = arrays(shapes(mechanism, other_sizes(mechanism, symbols, step), optional=optional))
            ours, theirs = run(parameters, given), program.call(parameters, given)
            for name, x in ours.items():
                error = jnp.abs(x - theirs[name]).max() if x.size else 0.0
                if x.shape != theirs[name].shape or not error <= 1e-5 * max(1.0, float(jnp.abs(x).max())):
                    return f"the exported {name} differs by {float(error):.1e} at {shape_text(given)}"
    return (
        YES if len(symbols) > 1 else "the grid is fixed when the layer is built; only the batch is symbolic"
    )


def other_sizes(mechanism: Mechanism, symbols: Mapping[str, Any], step: int) -> dict[str, int]:
    """The catalogue's sizes, with each length one step smaller or larger."""
    arguments = mechanism.module.arguments
    multiple = _step(mechanism)
    most = arguments.get("length", math.inf)
    sizes = {axis: mechanism.sizes[axis] + step * (1 if axis == "batch" else multiple) for axis in symbols}
    return {axis: size if axis == "batch" else min(size, most) for axis, size in sizes.items()}


def _step(mechanism: Mechanism) -> int:
    """The number that must divide the lengths of a mechanism."""
    arguments = mechanism.module.arguments
    if mechanism.module.name in FREE:
        return 1
    return next((arguments[name] for name in MULTIPLES if name in arguments), 1)


def shape_text(given: Arrays) -> str:
    """The shapes of a call's arrays as text."""
    return ", ".join(f"{name} {tuple(x.shape)}" for name, x in given.items())


def without_weights(
    mechanism: Mechanism,
) -> tuple[Callable[[nnx.State[Any, Any], Arrays], Arrays], nnx.State[Any, Any]]:
    """The call without attention weights, and the parameters."""
    return runner(mechanism, {"need_weights": False} if mechanism.weights else {})


def gradient(mechanism: Mechanism) -> str:
    """`jax.grad` of parameters and inputs is finite."""
    run, parameters = without_weights(mechanism)
    floats, others = parted(arrays(shapes(mechanism)))
    found = jax.jit(jax.grad(loss_of(run), (0, 1)))(parameters, floats, others)
    return finite(found)


def hessian_vector(mechanism: Mechanism) -> str:
    """The derivative of a function of the gradient (reverse over reverse) is finite."""
    run, parameters = without_weights(mechanism)
    floats, others = parted(arrays(shapes(mechanism)))
    loss = loss_of(run)

    def inner(parameters: nnx.State[Any, Any], floats: Arrays) -> Array:
        first = jax.tree.leaves(jax.grad(loss, (0, 1))(parameters, floats, others))
        return sum((jnp.cos(x).sum() for x in first), jnp.float32(0))

    return finite(jax.jit(jax.grad(inner, (0, 1)))(parameters, floats))


def forward_mode(mechanism: Mechanism) -> str:
    """`jax.jvp` over the parameters is finite."""
    run, parameters = runner(mechanism, {"need_weights": True} if mechanism.weights else {})
    given = arrays(shapes(mechanism))
    _, tangents = jax.jit(lambda p: jax.jvp(lambda p: run(p, given), (p,), (p,)))(parameters)
    return finite(tangents)


def finite(found: Any) -> str:
    """Check that all values are finite."""
    good = all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(found))
    return YES if good else "a derivative is not finite"


def mapped(mechanism: Mechanism) -> str:
    """`jax.vmap` over a new axis equals single calls."""
    run, parameters = without_weights(mechanism)
    one = arrays(shapes(mechanism))
    two = {name: jnp.flip(x, 0) for name, x in one.items()}
    both = jax.tree.map(lambda *x: jnp.stack(x), one, two)
    found = jax.jit(jax.vmap(run, (None, 0)))(parameters, both)
    run = jax.jit(run)
    apart = jax.tree.map(lambda *x: jnp.stack(x), run(parameters, one), run(parameters, two))
    return same(found, apart, "vmap")


def same(found: Arrays, right: Arrays, name: str) -> str:
    """Check that two results agree up to float32 rounding."""
    for field, x in right.items():
        error = float(jnp.abs(x.astype(jnp.float32) - found[field].astype(jnp.float32)).max())
        if not error <= 1e-5 * max(1.0, float(jnp.abs(x).max())):
            return f"{name} changes {field} by {error:.1e}"
    return YES


def nnx_jit(mechanism: Mechanism) -> str:
    """`nnx.jit` of a module equals `jax.jit` of its split parts."""
    run, parameters = without_weights(mechanism)
    options = {"need_weights": False} if mechanism.weights else {}
    given = arrays(shapes(mechanism))
    found = nnx.jit(lambda module, given: named_outputs(module(**given, **options)))(
        jax_module(mechanism, "float32"), given
    )
    return same(found, jax.jit(run)(parameters, given), "nnx.jit")


def nnx_grad(mechanism: Mechanism) -> str:
    """`nnx.grad` of a module gives one gradient per parameter."""
    options = {"need_weights": False} if mechanism.weights else {}
    given = arrays(shapes(mechanism))
    module = jax_module(mechanism, "float32")

    def loss(module: nnx.Module) -> Array:
        return sum(
            (jnp.sin(x).sum() for x in named_outputs(module(**given, **options)).values()), jnp.float32(0)
        )

    found = nnx.eval_shape(nnx.grad(loss), module)
    of = nnx.state(module, nnx.Param)
    return YES if len(jax.tree.leaves(found)) == len(jax.tree.leaves(of)) else "a parameter has no gradient"


def split_and_merge(mechanism: Mechanism) -> str:
    """`nnx.split` and `nnx.merge` keep the parameters, and the merged module can be called."""
    module = jax_module(mechanism, "float32")
    graph, state = nnx.split(module)
    again = nnx.state(nnx.merge(graph, state))
    options = {"need_weights": False} if mechanism.weights else {}
    jax.eval_shape(
        lambda given: named_outputs(nnx.merge(graph, state)(**given, **options)), shapes(mechanism)
    )
    kept = jax.tree.map(lambda x, y: bool((x == y).all()), nnx.to_pure_dict(state), nnx.to_pure_dict(again))
    return YES if all(jax.tree.leaves(kept)) else "merging changes the parameters"


def abstract(mechanism: Mechanism) -> str:
    """`nnx.eval_shape` builds an abstract module with the same parameter shapes."""
    module = nnx.eval_shape(lambda: build(mechanism.module, "jax_attention", {"rngs": nnx.Rngs(0)}))
    made = {path: x.shape for path, x in nnx.to_flat_state(nnx.state(module, nnx.Param))}
    real = jax_module(mechanism, "float32")
    held = {path: x.shape for path, x in nnx.to_flat_state(nnx.state(real, nnx.Param))}
    return YES if made == held else "the abstract module has other parameters"


def stacked(mechanism: Mechanism) -> str:
    """`nnx.vmap` stacks three layers, and `nnx.scan` runs a sequence through them."""
    floats, others = parted(shapes(mechanism))
    name = next(iter(floats), None)
    options = {"need_weights": False} if mechanism.weights else {}
    if name is None:
        return "it reads tokens, so layers cannot be chained"
    if not jax.tree.leaves(nnx.state(jax_module(mechanism, "float32"), nnx.Param)):
        return "it has no parameters to stack"

    @nnx.split_rngs(splits=3)
    @nnx.vmap(in_axes=0, out_axes=0)
    def layers(rngs: nnx.Rngs) -> nnx.Module:
        module = build(mechanism.module, "jax_attention", {"rngs": rngs})
        module.eval()
        return module

    def run(given: Arrays) -> Array:
        first = given.pop(name)

        @nnx.scan(in_axes=(nnx.Carry, 0), out_axes=nnx.Carry)
        def through(x: Array, layer: nnx.Module) -> Array:
            output = next(iter(named_outputs(layer(**{name: x}, **given, **options)).values()))
            return output if output.shape == x.shape else x + output.mean()

        return through(first, layers(nnx.Rngs(0)))

    made = jax.eval_shape(run, {**floats, **others})
    return YES if made.shape == floats[name].shape else "the layers return another shape"


def empty_sizes(mechanism: Mechanism) -> str:
    """A batch or a length of 0 gives the expected shapes and dtypes, forward and gradient."""
    arguments = mechanism.module.arguments
    step = next((arguments[name] for name in STEPS if name in arguments), 1)
    axes = tuple(symbolic(mechanism))
    options = {"need_weights": True} if mechanism.weights else {}
    run, parameters = runner(mechanism, options)
    for axis in axes:
        empty, one, two = (
            jax.eval_shape(run, parameters, shapes(mechanism, {axis: size})) for size in (0, step, 2 * step)
        )
        for name, x in empty.items():
            right = tuple(2 * n - m for n, m in zip(one[name].shape, two[name].shape, strict=True))
            if x.shape != right or x.dtype != one[name].dtype:
                return f"{name} is {x.dtype} {x.shape} instead of {one[name].dtype} {right} where {axis} is 0"
    for options, optional in calls(mechanism):
        run, parameters = runner(mechanism, options)
        for size in (0, step):
            given = parted(shapes(mechanism, dict.fromkeys(axes, size), optional=optional))
            jax.eval_shape(jax.value_and_grad(loss_of(run), (0, 1)), parameters, *given)
    return YES


def _axes_of(mechanism: Mechanism, x: np.ndarray) -> tuple[Any, ...] | None:
    """The axes of an extra argument `(batch, length, ...)`; None if it has another shape."""
    sizes = mechanism.sizes
    length = next((axis for axis in LENGTHS if x.ndim > 1 and x.shape[1] == sizes.get(axis)), None)
    return None if length is None or x.shape[0] != sizes["batch"] else ("batch", length, *x.shape[2:])


def tried(use: Callable[[Mechanism], str]) -> Callable[[Mechanism], str]:
    """Wrap a trial so that it returns an error as one sentence."""

    @wraps(use)
    def run(mechanism: Mechanism) -> str:
        try:
            return use(mechanism)
        except Exception as error:
            first = (str(error).strip() or "no message").splitlines()[0][:200]
            return first if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {first}"

    return run


USES: dict[str, Callable[[Mechanism], str]] = {
    "jax.export, symbolic sizes": tried(exported),
    "rank promotion raises": tried(strict_ranks),
    "strict dtype promotion": tried(strict_dtypes),
    "jax.checking_leaks": tried(leak_checks),
    "jax.debug_nans": tried(debug_nans),
    "jax.grad": tried(gradient),
    "Hessian-vector product": tried(hessian_vector),
    "jax.jvp with weights": tried(forward_mode),
    "jax.vmap": tried(mapped),
    "nnx.jit": tried(nnx_jit),
    "nnx.grad": tried(nnx_grad),
    "nnx.split and nnx.merge": tried(split_and_merge),
    "nnx.eval_shape": tried(abstract),
    "nnx.vmap and nnx.scan over layers": tried(stacked),
    "batch 0, length 0, length 1": tried(empty_sizes),
}
