"""How one array follows from another: a factor, other axes, another order, a softcap, another activation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from attention_bridge.doctor.models.counts import Relation, bucketed, padded
from attention_bridge.parity.measure import error

Array = np.ndarray


def _erf(x: Array) -> Array:
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(x / 2))


ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "GELU": lambda x: x / 2 * (1 + _erf(x / math.sqrt(2))),
    "tanh-GELU": lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "QuickGELU": lambda x: x * _sigmoid(1.702 * x),
    "SiLU": lambda x: x * _sigmoid(x),
    "ReLU": lambda x: np.maximum(x, 0),
    "squared ReLU": lambda x: np.maximum(x, 0) ** 2,
    "tanh": np.tanh,
    "sigmoid": _sigmoid,
    "Mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "softplus": lambda x: np.logaddexp(0, x),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "leaky ReLU": lambda x: np.where(x > 0, x, 0.01 * x),
    "no activation": lambda x: x,
}


def relation(port: Array, right: Array, tolerance: float, known: Mapping[str, Array]) -> Relation | None:
    """Explain an array of the port by the right one, or by other arrays of the reference.

    Args:
        port: array of the port.
        right: array of the reference.
        tolerance: largest relative error that rounding explains.
        known: other arrays of the reference by name.
    """
    if right.dtype.kind in "biu":
        return _counted(port.astype(np.int64), right.astype(np.int64))
    port, right = port.astype(np.float64), right.astype(np.float64)

    def same(a: Array, b: Array) -> bool:
        return a.shape == b.shape and error(a, b) <= 4 * tolerance

    for found in (*_scaled(port, right, same), *_moved(port, right, same), *_capped(port, right, same)):
        return found
    for found in (
        *_turned(port, right, same),
        *_sums(port, right, same, known),
        *_taken(port, right, same, known),
    ):
        return found
    return _activated(port, right, same, known)


Same = Callable[[Array, Array], bool]


def _scaled(port: Array, right: Array, same: Same) -> Iterator[Relation]:
    square = float((right * right).sum())
    if port.shape != right.shape or not square:
        return
    factor = float((port * right).sum()) / square
    if factor and same(port / factor, right):
        if abs(factor) < 1 and (said := _factor(1 / factor)).startswith("sqrt"):
            yield Relation(f"does not multiply by {said}", f"multiply by {said}")
        said = _factor(factor)
        yield Relation(f"multiplies by {said}", f"divide by {said}")


def _factor(x: float) -> str:
    for scale, form in ((x * x, "sqrt({})"), (1 / (x * x), "1 / sqrt({})")):
        whole = round(scale)
        if x > 0 and 1 < whole < 10**6 and abs(scale - whole) < 1e-3 * whole:
            return form.format(whole)
    return f"{x:.4g}"


def _moved(port: Array, right: Array, same: Same) -> Iterator[Relation]:
    if port.size != right.size:
        return
    axes = range(right.ndim)
    for one in axes:
        for other in axes:
            if one < other and right.shape[one] > 1 and right.shape[other] > 1:
                swapped = right.swapaxes(one, other)
                if same(port, swapped) or same(port, swapped.reshape(right.shape)):
                    yield Relation(
                        f"has the axes {one} and {other} swapped", f"swap the axes {one} and {other}"
                    )
    if port.shape != right.shape:
        return
    for axis in axes:
        if right.shape[axis] < 2:
            continue
        if same(port, np.flip(right, axis)):
            yield Relation(f"has axis {axis} in reverse", f"reverse axis {axis}")
        for step in (1, -1):
            moved = np.roll(port, -step, axis)
            inner = [slice(None)] * right.ndim
            inner[axis] = slice(None, -1) if step > 0 else slice(1, None)
            if right.shape[axis] > 2 and same(moved[tuple(inner)], right[tuple(inner)]):
                late = "late" if step > 0 else "early"
                yield Relation(
                    f"is one place too {late} along axis {axis}", f"shift axis {axis} by one place"
                )
        for parts in range(2, right.shape[axis] + 1):
            if right.shape[axis] % parts == 0 and parts < right.shape[axis]:
                blocks = np.split(right, parts, axis)
                if same(port, np.concatenate(blocks[::-1], axis)):
                    yield Relation(
                        f"has {parts} blocks of axis {axis} in reverse, such as heads",
                        "keep the heads in the reference's order",
                    )
                shape = (*right.shape[:axis], parts, -1, *right.shape[axis + 1 :])
                turned = right.reshape(shape).swapaxes(axis, axis + 1).reshape(right.shape)
                if same(port, turned):
                    yield Relation(
                        f"reads axis {axis} as features of {parts} parts instead of {parts} parts of features",
                        "cut the axis in the other order",
                    )


def _capped(port: Array, right: Array, same: Same) -> Iterator[Relation]:
    """A softcap c tanh(x / c) that only one of the two has."""
    if port.shape != right.shape or not right.size:
        return
    for free, capped, said in (
        (port, right, "has no softcap {:.6g}"),
        (right, port, "has a softcap of {:.6g}, which the reference has not"),
    ):
        place = np.abs(free).argmax()
        large, small = abs(free.flat[place]), abs(capped.flat[place])
        if not 0 < small < large:
            continue
        low, high = small, 1e4 * large
        for _ in range(200):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if middle * math.tanh(large / middle) < small else (low, middle)
        # tanh alone is an activation
        if abs(low - 1) > 1e-3 and same(low * np.tanh(free / low), capped):
            cap = float(f"{low:.4g}")
            yield Relation(said.format(cap), f"apply c tanh(x / c) as the reference does, c = {cap:.6g}")


def _sums(port: Array, right: Array, same: Same, known: Mapping[str, Array]) -> Iterator[Relation]:
    """A term that only one of the two has."""
    if port.shape != right.shape:
        return
    terms = {name: x.astype(np.float64) for name, x in known.items() if x.shape == port.shape}
    for name, term in terms.items():
        if same(port + term, right):
            yield Relation(f"does not add {name}", f"add {name}")
        if same(port - term, right):
            yield Relation(f"adds {name}, which the reference does not,", f"do not add {name}")


def _turned(port: Array, right: Array, same: Same) -> Iterator[Relation]:
    """Pairs of features that are turned as RoPE turns them: by the same angle in each sample of the batch."""
    if port.shape != right.shape or right.shape[-1] % 2 or right.ndim < 3 or len(right) < 2:
        return
    half = right.shape[-1] // 2
    halves = (slice(0, half), slice(half, None)), (slice(0, None, 2), slice(1, None, 2))
    for one, other in halves:
        before = right[..., one] + 1j * right[..., other]
        after = port[..., one] + 1j * port[..., other]
        if not same(np.abs(after), np.abs(before)):
            continue
        turn = after * before.conj() / np.maximum(np.abs(before) ** 2, 1e-30)
        large = np.abs(before) > 1e-3 * np.abs(before).max()
        alike = np.abs(turn - turn[:1])[large & large[:1]] < 1e-2
        if alike.all() and (np.abs(turn.imag[large]) > 1e-2).any():
            yield Relation("applies RoPE, or turns by another angle,", "apply RoPE where the reference does")
            return


def _counted(port: Array, right: Array) -> Relation | None:
    """Integers, such as positions, that are off by one number."""
    if port.shape != right.shape or not (port - right).any():
        return None
    if {*np.unique(port).tolist(), *np.unique(right).tolist()} <= {0, 1}:
        return _masked(port, right)
    steps = np.unique(port - right)
    if len(steps) == 1:
        step = int(steps[0])
        word = "large" if step > 0 else "small"
        return Relation(
            f"gives numbers that are too {word} by {abs(step)}",
            f"{'subtract' if step > 0 else 'add'} {abs(step)}",
        )
    if (said := bucketed(port, right)) or (said := padded(port, right)):
        return said
    return Relation(
        "gives other numbers, which differ by " + ", ".join(map(str, steps[:5].tolist())),
        "count as the reference does",
    )


def _masked(port: Array, right: Array) -> Relation:
    """Zeros and ones, which are a mask."""
    if np.array_equal(port, 1 - right):
        return Relation("inverts the mask", "give the mask as the reference does")
    if port.all():
        return Relation("masks nothing", "give the mask as the reference does")
    for step in range(1, len(right)):
        if np.array_equal(port, np.roll(right, step, 0)):
            return Relation("takes the mask of another sample of the batch", "give each sample its own mask")
    return Relation("gives another mask", "give the mask as the reference does")


def _taken(port: Array, right: Array, same: Same, known: Mapping[str, Array]) -> Iterator[Relation]:
    """Another array of the reference in the place of the right one."""

    def named(array: Array) -> str:
        return next((name for name, x in known.items() if same(array, x.astype(np.float64))), "")

    taken, wanted = named(port), named(right)
    inner = taken.removeprefix("the input of ")
    if taken and inner != taken and wanted == f"the output of {inner}":
        yield Relation(f"skips {inner}", f"apply {inner}")
    elif taken and wanted:
        yield Relation(f"takes {taken} instead of {wanted}", f"take {wanted}")
    elif taken:
        yield Relation(f"takes {taken}, which the reference does not,", f"do not take {taken}")


def _activated(port: Array, right: Array, same: Same, known: Mapping[str, Array]) -> Relation | None:
    """Another activation of a known array, perhaps times a second one."""
    terms = {name: x.astype(np.float64) for name, x in known.items() if x.shape == right.shape}
    halves = {
        f"half {half} of {name}": part.astype(np.float64)
        for name, x in known.items()
        if x.ndim == right.ndim and x.shape[:-1] == right.shape[:-1] and x.shape[-1] == 2 * right.shape[-1]
        for half, part in zip("12", np.split(x, 2, -1), strict=True)
    }
    terms |= halves
    products: list[tuple[str, str | None]] = [(name, None) for name in terms]
    products += [(one, other) for one in terms for other in terms if one != other]

    def nearest(array: Array, name: str, other: str | None) -> tuple[float, str] | None:
        """The activation of a term, times another one, that is nearest to an array if rounding explains the rest."""
        found = []
        for kind, function in ACTIVATIONS.items():
            if kind == "no activation" and other is None:
                continue
            made = function(terms[name])
            made = made if other is None else made * terms[other]
            if same(array, made):
                found.append((error(array, made), kind))
        return min(found, default=None)

    fits = []
    for name, other in products:
        if (truth := nearest(right, name, other)) is None:
            continue
        if (mine := nearest(port, name, other)) is not None and mine[1] != truth[1]:
            said = f"applies {mine[1]} where the reference applies {truth[1]}"
            fits.append((mine[0] + truth[0], Relation(said, f"use {truth[1]}")))
        if other is not None and (mine := nearest(port, other, name)) is not None and mine[1] == truth[1]:
            said = f"applies {mine[1]} to {other}, and the reference to {name}: gate and up are swapped"
            fits.append((mine[0] + truth[0], Relation(said, "exchange gate and up")))
    return min(fits, key=lambda pair: pair[0])[1] if fits else None
