"""Counted operations and memory of a program: the same figures on every machine.

An operation is one multiplication of a matrix product, or one output element of any other operation. Memory is the peak
total size of the intermediate results, each of which lives from its computation to its last use. XLA fuses some of
them away, so its real memory may grow more slowly than the counted memory, but never faster.
"""

import math
import weakref
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import torch
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CALLED = ("jaxpr", "call_jaxpr", "fun_jaxpr")  # parameters of call primitives that hold the called jaxpr


class Cost(NamedTuple):
    """Counted cost of a program.

    Attributes:
        operations: multiplications of matrix products, and output elements of other operations.
        peak_bytes: peak total size of the intermediate results.
    """

    operations: int
    peak_bytes: int


def torch_cost(program: Callable[[], Any]) -> Cost:
    """The cost of a PyTorch program, counted while it runs."""
    counter = _TorchCounter()
    with torch.no_grad(), counter:
        program()
    return Cost(counter.operations, counter.peak)


class _TorchCounter(TorchDispatchMode):
    """Dispatch mode that counts operations and tracks each storage until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        for x in tree_leaves((args, kwargs)):  # inputs of the program do not count as results
            if isinstance(x, torch.Tensor):
                self._hold(x, 0)
        result = func(*args, **(kwargs or {}))
        made = [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)]
        for x in made:
            self._hold(x, x.untyped_storage().nbytes())
        self.operations += _torch_products(func.overloadpacket.__name__, args)
        if not func.is_view:
            self.operations += sum(x.numel() for x in made)
        return result

    def _hold(self, x: torch.Tensor, size: int) -> None:
        storage = x.untyped_storage()
        number = storage._cdata
        if number in self.known:
            return
        self.known.add(number)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._free, number, size)

    def _free(self, number: int, size: int) -> None:
        self.known.discard(number)
        self.live -= size


def _torch_products(name: str, args: tuple[Any, ...]) -> int:
    """The number of multiplications in an operation's matrix products."""
    if name in ("mm", "bmm"):
        return args[0].numel() * args[1].shape[-1]
    if name == "addmm":
        return args[1].numel() * args[2].shape[-1]
    if name == "baddbmm":
        return args[1].numel() * args[2].shape[-1]
    if name.startswith("_scaled_dot_product"):
        is_backward = name.endswith("_backward")  # its first argument is the gradient of the output
        query, key, value = args[1:4] if is_backward else args[:3]
        pairs = query.numel() // query.shape[-1] * key.shape[-2]
        forward = pairs * (query.shape[-1] + value.shape[-1])
        return forward + pairs * (2 * query.shape[-1] + value.shape[-1]) if is_backward else forward
    if name == "convolution":
        x, weight = args[:2]
        return x.numel() * weight.shape[0] * math.prod(weight.shape[2:])
    return 0


def jax_cost(program: Callable[..., Any], *given: Any) -> Cost:
    """The cost of a JAX program, counted in its jaxpr; the program runs only if a loop's length depends on values."""
    closed = jax.make_jaxpr(program)(*given)
    if not _loops(closed.jaxpr):
        return Cost(_operations(closed.jaxpr), peak_bytes(closed.jaxpr))
    counter = _JaxCounter()
    counter.run(closed.jaxpr, closed.consts, jax.tree.leaves(given))
    return Cost(counter.operations, peak_bytes(closed.jaxpr))


def _operations(jaxpr: Jaxpr) -> int:
    """Count the operations of a jaxpr without `while` loops; of several branches the most expensive one counts."""
    total = 0
    for equation in jaxpr.eqns:
        inner = [_operations(x) for x in _inner(equation)]
        if equation.primitive.name == "cond":
            total += max(inner)
        elif equation.primitive.name == "scan":
            total += equation.params["length"] * sum(inner)
        else:
            called = any(called in equation.params for called in CALLED)
            total += sum(inner) if called else _jax_operations(equation)
    return total


class _JaxCounter:
    """Interpreter of a jaxpr that counts operations."""

    def __init__(self) -> None:
        self.operations = 0
        self.times = 1

    def run(self, jaxpr: Jaxpr, consts: Any, given: Any) -> list[Any]:
        """Evaluate a jaxpr, add its operations to the count, and return its outputs."""
        values: dict[Any, Any] = {}

        def read(x: Any) -> Any:
            return x.val if isinstance(x, Literal) else values[x]

        values.update(zip(jaxpr.constvars, consts, strict=True))
        values.update(zip(jaxpr.invars, given, strict=True))
        for equation in jaxpr.eqns:
            found = self._equation(equation, [read(x) for x in equation.invars])
            values.update(zip(equation.outvars, found, strict=True))
        return [read(x) for x in jaxpr.outvars]

    def _equation(self, equation: Any, given: list[Any]) -> list[Any]:
        name, params = equation.primitive.name, equation.params
        if name == "while":
            return self._while(params, given)
        if name == "scan":
            return self._scan(equation, given)
        if name == "cond":
            branch = params["branches"][min(max(int(given[0]), 0), len(params["branches"]) - 1)]
            return self.run(branch.jaxpr, branch.consts, given[1:])
        inner = next((params[called] for called in CALLED if called in params), None)
        if inner is not None:
            closed = isinstance(inner, ClosedJaxpr)
            return self.run(inner.jaxpr if closed else inner, inner.consts if closed else (), given)
        self.operations += self.times * _jax_operations(equation)
        found = _bind(equation, given)
        return list(found) if equation.primitive.multiple_results else [found]

    def _while(self, params: dict[str, Any], given: list[Any]) -> list[Any]:
        ends, does = params["cond_jaxpr"], params["body_jaxpr"]
        of_end, of_body = params["cond_nconsts"], params["body_nconsts"]
        end, body, carry = given[:of_end], given[of_end : of_end + of_body], given[of_end + of_body :]
        while bool(self.run(ends.jaxpr, ends.consts, [*end, *carry])[0]):
            carry = self.run(does.jaxpr, does.consts, [*body, *carry])
        return carry

    def _scan(self, equation: Any, given: list[Any]) -> list[Any]:
        """Run a scan: the first step is counted for all steps, unless the body has `while` loops."""
        params = equation.params
        constant, carried, length = params["num_consts"], params["num_carry"], params["length"]
        body, constants = params["jaxpr"], given[:constant]
        carry, each = given[constant : constant + carried], given[constant + carried :]
        if length and not _loops(body.jaxpr):
            self.times *= length
            self.run(body.jaxpr, body.consts, [*constants, *carry, *(x[0] for x in each)])
            self.times //= length
        else:
            for i in range(length):
                found = self.run(body.jaxpr, body.consts, [*constants, *carry, *(x[i] for x in each)])
                carry = found[:carried]
        return list(_bind(equation, given))


def _loops(jaxpr: Jaxpr) -> bool:
    return any(x.primitive.name == "while" or any(map(_loops, _inner(x))) for x in jaxpr.eqns)


def _bind(equation: Any, given: list[Any]) -> Any:
    params = equation.primitive.get_bind_params(equation.params)
    return equation.primitive.bind(*given, **params)


def _jax_operations(equation: Any) -> int:
    made = sum(math.prod(x.aval.shape) for x in equation.outvars)
    if equation.primitive.name == "dynamic_update_slice":  # in place
        return math.prod(equation.invars[1].aval.shape)
    if equation.primitive.name == "dot_general":
        (summed, _), _ = equation.params["dimension_numbers"]
        return made * (1 + math.prod(equation.invars[0].aval.shape[i] for i in summed))
    if equation.primitive.name == "conv_general_dilated":
        weight = equation.invars[1].aval.shape
        features = weight[equation.params["dimension_numbers"].rhs_spec[0]]
        return made * (1 + math.prod(weight) // features)
    return made


def peak_bytes(jaxpr: Jaxpr) -> int:
    """Peak total size of the intermediate results, each alive from its computation to its last use."""
    last = {
        x: i for i, equation in enumerate(jaxpr.eqns) for x in equation.invars if not isinstance(x, Literal)
    }
    last |= {x: len(jaxpr.eqns) for x in jaxpr.outvars if not isinstance(x, Literal)}
    live = peak = 0
    ends: dict[int, int] = {}
    for i, equation in enumerate(jaxpr.eqns):
        inner = max((peak_bytes(x) for x in _inner(equation)), default=0)
        peak = max(peak, live + inner)
        for x in equation.outvars:
            size = _bytes(x.aval)
            live += size
            end = max(last.get(x, i), i)
            ends[end] = ends.get(end, 0) + size
        peak = max(peak, live)
        live -= ends.get(i, 0)
    return peak


def _bytes(aval: Any) -> int:
    return math.prod(aval.shape) * getattr(aval.dtype, "itemsize", 4)


def _inner(equation: Any) -> list[Jaxpr]:
    leaves = [y for x in equation.params.values() for y in (x if isinstance(x, tuple | list) else (x,))]
    return [
        x.jaxpr if isinstance(x, ClosedJaxpr) else x for x in leaves if isinstance(x, ClosedJaxpr | Jaxpr)
    ]
