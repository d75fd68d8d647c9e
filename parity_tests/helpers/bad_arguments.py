"""Valid and invalid arguments made from annotations, and a comparison of the errors of both mirrors."""

import importlib
import inspect
import linecache
import math
import pkgutil
import zlib
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from functools import cache, partial
from pathlib import Path
from types import UnionType
from typing import NamedTuple, Union, get_args, get_origin

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import jax_attention
import torch_attention

PACKAGES = {"torch": torch_attention, "jax": jax_attention}
ROOTS = {mirror: str(Path(package.__file__).parent) for mirror, package in PACKAGES.items()}
REFUSALS = (TypeError, ValueError, NotImplementedError)
NOT_MIRRORED = ("self", "factory", "rngs", "dtype", "param_dtype", "device")
MODULE = {"torch": torch.nn.Module, "jax": nnx.Module}

HUGE = 10**30
BAD = {
    int: (
        0.5,
        8.0,
        -8,
        True,
        "8",
        math.nan,
        [8],
        None,
        HUGE,
        -HUGE,
        1j,
        Fraction(7, 2),
        np.float32(8),
        {},
        (),
    ),
    float: ("x", True, math.nan, math.inf, -math.inf, [0.5], None, 10**400, 1j, np.nan, {}, np.array(["x"])),
    bool: ("no", 2, 0.0, 1, None, [True], math.nan, np.int64(1), ()),
    str: (2, None, True, ["relu"], b"relu", math.nan),
    Sequence: ("x", 2, None, {1: 2}, {1, 2}, ["a"], [math.nan], [True], math.nan, [[1]]),
    "part": ("x", 2, [1], math.nan, {}, (), True, object),
    "array": ("x", 2, 1.5, [1.0], (2, 3), math.nan, {}, True, 1j, object, np.float32(2.0)),
}
LEAST = {
    "dropout": (-0.1, 1.0, 1.5),
    "eps": (-1.0,),
    "norm_eps": (-1e-6,),
    "base": (0, -1.0),
    "softcap": (0.0, -1.0),
}
ANY_INTEGER = (
    "distance",
    "pad_id",
    "pad_token",
    "end_token",
)  # tokens, and integers that may be negative


class Answer(NamedTuple):
    """The end of a call, and whether this mirror's own checks raised the error."""

    own: bool
    kind: str
    text: str


def answer(mirror, call):
    """The error that a call raises."""
    try:
        call()
    except Exception as error:
        last = error.__traceback__
        while last.tb_next:
            last = last.tb_next
        file = last.tb_frame.f_code.co_filename
        raised = linecache.getline(file, last.tb_lineno).strip().startswith("raise ")
        own = isinstance(error, REFUSALS) and file.startswith(ROOTS[mirror]) and raised
        return Answer(own, type(error).__name__, str(error))
    return Answer(False, "no error", "")


class Count:
    """Counts of the calls that raise a framework's own error, and of those that differ between the mirrors."""

    def __init__(self):
        self.calls, self.foreign, self.unequal, self.accepted = 0, [], [], []

    def add(self, where, ours, theirs):
        """Count the answers of both mirrors to one call."""
        self.calls += 1
        if any(not x.own and x.kind != "no error" for x in (ours, theirs)):
            self.foreign.append((*where, ours, theirs))
        if ours != theirs:
            self.unequal.append((*where, ours, theirs))
        if ours.kind == theirs.kind == "no error" or "\n" in ours.text or len(ours.text) > 300:
            self.foreign.append((*where, ours, theirs))

    def check(self):
        """Assert that every call raised the same error in both mirrors, from the mirrors' own checks."""
        found = self.foreign + self.unequal + self.accepted
        print(
            f"of {self.calls} calls {len(self.foreign)} end in another's traceback, {len(self.unequal)} are answered "
            f"differently, {len(self.accepted)} are accepted"
        )
        for failure in found[:60]:
            print(*failure, sep=" | ")
        assert not found, Counter(failure[0] for failure in found).most_common(10)


def kinds_of(annotation):
    """The alternatives of an annotation, and whether None is one."""
    if isinstance(annotation, UnionType) or get_origin(annotation) is Union:
        kinds = [x for x in get_args(annotation) if x is not type(None)]
        return kinds, len(kinds) < len(get_args(annotation))
    return [annotation], False


def sort_of(kind):
    """The key of `BAD` for an annotation; None for annotations that are not checked."""
    if kind in (int, float, bool, str):
        return kind
    if hasattr(kind, "array_type"):
        return "array"
    if get_origin(kind) in (tuple, Sequence):
        return Sequence
    if inspect.isclass(kind) and getattr(kind, "__module__", "").split(".")[0] in (
        "torch_attention",
        "jax_attention",
        "torch",
        "flax",
    ):
        return "part"
    return None


def bad_values(name, annotation):
    """Invalid values for an argument with that annotation."""
    kinds, optional = kinds_of(annotation)
    sorts = [sort_of(kind) for kind in kinds]
    if None in sorts or len(sorts) > 1:
        return ()
    least = (0,) if name.endswith(("_dim", "_heads", "window", "chunk_size")) else ()
    bad = (*BAD[sorts[0]], *LEAST.get(name, ()), *least)
    meant = {None} if optional else set()
    meant |= {-8} if name in ANY_INTEGER else set()
    meant |= {math.inf, -math.inf} if name == "fill" else set()
    bad = tuple(x for x in bad if x != ["a"] or str not in get_args(kinds[0]))  # which are names
    return tuple(
        x for x in bad if not isinstance(x, int | float | None) or isinstance(x, bool) or x not in meant
    )


def is_checked(thing):
    """Whether a function is decorated by `checked`."""
    return hasattr(thing, "checks")


@cache
def checked_things():
    """Every checked function and class of both mirrors, by its path within its package."""
    found = {}
    for mirror, package in PACKAGES.items():
        things = {}
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            module = importlib.import_module(info.name)
            for name, thing in vars(module).items():
                if name.startswith("_") or getattr(thing, "__module__", "") != info.name:
                    continue
                path = f"{info.name.split('.', 1)[1]}.{name}"
                if inspect.isclass(thing):
                    for each in ("__init__", "forward", "__call__"):
                        if is_checked(vars(thing).get(each)):
                            things[f"{path}.{each.replace('forward', '__call__')}"] = vars(thing)[each]
                elif is_checked(thing):
                    things[path] = thing
        found[mirror] = things
    return found


def shape_of(kind):
    """A shape with the axes of an annotation; an axis name always has the same size."""
    shape = []
    for word in kind.dim_str.split():
        if word.isdigit():
            shape.append(int(word))
        elif word.lstrip("#")[0] not in "*.":
            shape.append(2 + zlib.crc32(word.lstrip("#").encode()) % 3)
    return tuple(shape)


def array_of(kind):
    """A NumPy array that matches an annotation."""
    shape = shape_of(kind)
    dtypes = kind.dtypes if isinstance(kind.dtypes, tuple) else ("float32",)
    if "float32" in dtypes:
        return np.full(shape, 0.5, np.float32)
    return np.ones(shape, np.bool_ if "bool" in dtypes else np.int32)


def own_array(mirror, x):
    """The array in the framework of a mirror."""
    return torch.from_numpy(np.array(x)) if mirror == "torch" else jnp.asarray(x)


def example(mirror, annotation):
    """A valid argument for an annotation."""
    (kind, *_), optional = kinds_of(annotation)
    if optional:
        return None
    sort = sort_of(kind)
    if sort == "array":
        x = array_of(kind) if hasattr(kind, "dim_str") else np.ones((2, 3), np.float32)
        return own_array(mirror, x)
    if sort is Sequence:
        elements = [x for x in get_args(kind) if x is not Ellipsis]
        return tuple(example(mirror, x) for x in elements)
    if sort == "part":
        return object.__new__(kind) if not issubclass(kind, tuple) else named(mirror, kind)
    if callable(kind) and not inspect.isclass(kind):
        return lambda *given: given[0]
    return {int: 4, float: 0.5, bool: False, str: "relu"}.get(kind)


def named(mirror, kind):
    """A named tuple of valid arrays."""
    return kind(*(example(mirror, x) for x in kind.__annotations__.values()))


def wrong_arrays(name, annotation):
    """Invalid arrays for an argument, each with a description of the fault."""
    (kind, *_), _ = kinds_of(annotation)
    if sort_of(kind) != "array" or not hasattr(kind, "dim_str"):
        return
    dtypes = kind.dtypes if isinstance(kind.dtypes, tuple) else ()
    right = array_of(kind)
    if dtypes:
        for other in (np.float32, np.int32, np.bool_, np.complex64):
            if np.dtype(other).name not in dtypes:
                yield other.__name__, right.astype(other)
    if not any(word.lstrip("#")[0] in "*." for word in kind.dim_str.split()):
        yield "one axis more", right[None]
        if right.ndim:
            yield "one axis less", right[0]


def compare(count, where, calls):
    """Count the answers of both mirrors to one call."""
    count.add(where, answer("torch", calls["torch"]), answer("jax", calls["jax"]))


def foreign_arrays(count, where, calls, right):
    """Count arrays of NumPy or another framework that do not raise a TypeError with the conversion."""
    others = {
        "torch": {"NumPy": right, "JAX": jnp.asarray(right)},
        "jax": {"PyTorch": torch.from_numpy(right)},
    }
    for mirror, arrays in others.items():
        for kind, x in arrays.items():
            found = answer(mirror, partial(calls[mirror], x))
            count.calls += 1
            hint = {"NumPy": "torch.from_numpy", "JAX": "torch.Tensor", "PyTorch": "jax.Array"}[kind]
            if found[:2] != (True, "TypeError") or hint not in found.text:
                count.foreign.append((*where, kind, found, found))


def batter(count, path, functions, *, callers=None, arrays=True):
    """Call functions of both mirrors with every kind of invalid argument, one at a time.

    Args:
        count: counts the answers.
        path: name of the function in the report.
        functions: the function of each mirror, whose signature sets the valid arguments.
        callers: the callables under test by mirror; None for `functions`.
        arrays: whether to include arrays of other ranks.
    """
    callers = functions if callers is None else callers
    signatures = {mirror: inspect.signature(f).parameters for mirror, f in functions.items()}
    right = {
        mirror: {
            name: example(mirror, x.annotation)
            for name, x in parameters.items()
            if x.default is x.empty
            and x.kind in (x.POSITIONAL_OR_KEYWORD, x.KEYWORD_ONLY)
            and name not in NOT_MIRRORED
        }
        for mirror, parameters in signatures.items()
    }

    def call(mirror, name, x):
        parameter = signatures[mirror][name]
        if parameter.kind is parameter.VAR_POSITIONAL:
            return callers[mirror](*right[mirror].values(), x)
        return callers[mirror](**{**right[mirror], name: x})

    for name, parameter in signatures["torch"].items():
        if name in NOT_MIRRORED or parameter.kind is parameter.VAR_KEYWORD:
            continue
        for bad in bad_values(name, parameter.annotation):
            calls = {mirror: partial(call, mirror, name, bad) for mirror in functions}
            compare(count, (path, name, repr(bad)[:40]), calls)
        for fault, x in wrong_arrays(name, parameter.annotation):
            if fault.startswith("one axis") and not arrays:
                continue
            calls = {mirror: partial(call, mirror, name, own_array(mirror, x)) for mirror in functions}
            compare(count, (path, name, fault), calls)
        (kind, *_), _ = kinds_of(parameter.annotation)
        if sort_of(kind) == "array" and hasattr(kind, "dim_str"):
            calls = {mirror: partial(call, mirror, name) for mirror in functions}
            foreign_arrays(count, (path, name), calls, array_of(kind))
