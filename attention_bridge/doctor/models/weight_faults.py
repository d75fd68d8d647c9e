"""Names for the ways in which a port's weights differ from the reference's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import takewhile
from math import isqrt
from typing import Any

import ml_dtypes
import numpy as np

from attention_bridge.doctor.models.finding import ModelFinding
from attention_bridge.doctor.models.weights import Weights
from attention_bridge.parity.measure import COARSE, UNIT_ROUNDOFF, error

SHARDS = (2, 4, 8)
ALMOST_ALL = 0.98
ROUNDINGS = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float8_e4m3fn": ml_dtypes.float8_e4m3fn}


def weight_findings(found: Weights, *, aligned: bool = True) -> list[ModelFinding]:
    """The mistakes in a port's weights, one for each submodule or group of equal ones.

    Args:
        found: the weights of both models.
        aligned: whether weights that only one of the models has count as mistakes.
    """
    wrong = {
        name: (found.reference[name], given)
        for name, given in found.port.items()
        if not _equal(given, found.reference[name])
    }
    findings = [*_lacking(found), *_extra(found)] if aligned else []
    copies = {name: _copied(name, given, found) for name, (_, given) in wrong.items()}
    for place, names in _places(wrong).items():
        findings += _in_place(place, names, wrong, copies, found)
    return findings


def _equal(given: np.ndarray, right: np.ndarray) -> bool:
    """Whether a tensor holds the right values, rounded to its own dtype."""
    if given.shape != right.shape:
        return False
    with np.errstate(over="ignore"):
        return bool((given == right.astype(given.dtype)).all())


def _lacking(found: Weights) -> Iterator[ModelFinding]:
    for place, names in _places(found.lacking).items():
        ends = [name.removeprefix(f"{place}.") for name in names]
        yield ModelFinding(
            place,
            f"has no {' and no '.join(ends)}",
            f"add {', '.join(names)} to the port",
            1.0,
        )


def _extra(found: Weights) -> Iterator[ModelFinding]:
    for name in found.extra:
        yield ModelFinding(
            name, f"has the tensor {name}, which the reference has not", f"remove {name} from the port", 1.0
        )


def _places(names: Iterable[str]) -> dict[str, list[str]]:
    """The names of tensors by the module that holds them."""
    places: dict[str, list[str]] = defaultdict(list)
    for name in names:
        places[name.rpartition(".")[0] or "the model"].append(name)
    return places


def _as_the_weight(names: list[str], wrong: dict[str, tuple[np.ndarray, np.ndarray]]) -> set[str]:
    """The vectors of a module that are permuted as the rows of its matrix are: one mistake, named at the matrix."""
    orders = []
    for name in names:
        right, given = (x.astype(np.float64) for x in wrong[name])
        if right.ndim == 2 and right.shape == given.shape:
            unit = 4 * UNIT_ROUNDOFF.get(wrong[name][1].dtype.name, 2.0**-24)
            if (order := _order(right, given, 0, unit)) is not None:
                orders.append(order)
    return {
        name
        for name in names
        for order in orders
        if wrong[name][0].ndim == 1
        and wrong[name][0].shape == order.shape
        and _equal(wrong[name][1], wrong[name][0][order])
    }


def _in_place(
    place: str,
    names: list[str],
    wrong: dict[str, tuple[np.ndarray, np.ndarray]],
    copies: dict[str, str],
    found: Weights,
) -> Iterator[ModelFinding]:
    """The mistakes in the tensors of one module."""
    carried = _as_the_weight(names, wrong) if len(names) > 1 else set()
    for name in names:
        if name in carried:
            continue
        right, given = wrong[name]
        if given.shape != right.shape:
            yield ModelFinding(
                place,
                f"has {name} of shape {given.shape}, and the reference of shape {right.shape}",
                f"give {name} the shape {right.shape}",
                1.0,
            )
            continue
        exact, other = right.astype(np.float64), given.astype(np.float64)
        far = error(other, exact)
        if copies[name]:
            yield ModelFinding(
                place,
                f"holds {copies[name]} in {name}",
                f"fill {name} from the reference's tensor of this name",
                far,
                copied=(copies[name], name),
            )
            continue
        if rounded := _rounding(exact, other, given.dtype):
            sign = f"has {name} rounded to {rounded} on the way"
            cure = f"copy {name} without a cast to {rounded}"
            yield ModelFinding(place, sign, cure, far, rounded=rounded)
            continue
        mistake, cure = _named(name, exact, other, given.dtype.name, found)
        yield ModelFinding(place, mistake, cure or f"fill {name} from the reference, as it is", far)


def _copied(name: str, given: np.ndarray, found: Weights) -> str:
    """The other tensor of the reference that a wrong tensor holds; empty if it holds none."""
    if given.size < 2 or np.all(given == given.reshape(-1)[0]):
        return ""
    same = [
        other
        for other, array in found.reference.items()
        if other != name and array.shape == given.shape and _equal(given, array)
    ]
    return same[0] if same else ""


def _named(name: str, right: np.ndarray, given: np.ndarray, dtype: str, found: Weights) -> tuple[str, str]:
    """The mistake in a tensor's values and its cure; both empty if it is unknown."""
    unit = 4 * UNIT_ROUNDOFF.get(dtype, 2.0**-24)

    def same(array: np.ndarray) -> bool:
        return array.shape == given.shape and error(given, array) <= unit

    if not given.any():
        return f"has only zeros in {name}", f"copy {name} to the port"
    if right.ndim == 2 and right.shape[0] == right.shape[1] and same(right.T):
        return f"has {name} transposed, which is square", f"transpose {name}"
    for axis in range(right.ndim):
        if right.shape[axis] > 1 and same(np.flip(right, axis)):
            return f"has {name} in reverse order along axis {axis}", f"reverse axis {axis} of {name}"
    for offset in (1.0, -1.0):
        if right.ndim == 1 and same(right + offset):
            word = "1 added to" if offset > 0 else "1 subtracted from"
            return (
                f"has {word} {name}",
                f"copy {name} as it is: one of the two models multiplies by 1 + weight",
            )
    if (factor := _factor(right, given, unit)) is not None:
        return f"has {name} multiplied by {_number(factor)}", f"divide {name} by {_number(factor)}"
    if right.ndim == 2 and right.shape[0] == right.shape[1] and (part := _shard(right, same)):
        return f"has {part} of {name} transposed", f"transpose the shards of {name} as the whole is"
    for axis, of in ((0, "rows"), (1, "columns")):
        if axis < right.ndim and (order := _order(right, given, axis, unit)) is not None:
            kind = _permutation(order)
            return (
                f"has the {of} of {name} in another order: {kind}",
                f"put the {of} of {name} in the reference's order",
            )
    tied = next((group for group in found.tied if name in group), None)
    if tied is not None:
        others = ", ".join(other for other in tied if other != name)
        return (
            f"has another matrix in {name} than in {others}, which the reference shares",
            f"share {name} with {others}",
        )
    return "", ""


def _factor(right: np.ndarray, given: np.ndarray, unit: float) -> float | None:
    square = float((right * right).sum())
    if not square:
        return None
    factor = float((right * given).sum()) / square
    if abs(factor - 1) < 16 * unit or not factor:
        return None
    return factor if error(given, factor * right) <= 2 * unit else None


def _number(x: float) -> str:
    """A factor in words: a square root where it is one."""
    for scale, form in ((x * x, "sqrt({})"), (1 / (x * x), "1 / sqrt({})")):
        whole = round(scale)
        if x > 0 and 1 < whole < 10**6 and abs(scale - whole) < 1e-4 * whole and isqrt(whole) ** 2 != whole:
            return form.format(whole)
    return f"{x:.6g}"


def _rounding(right: np.ndarray, given: np.ndarray, own: np.dtype[Any]) -> str:
    """The dtype that the right values were rounded to; empty for none."""
    for name, dtype in ROUNDINGS.items():
        with np.errstate(over="ignore", invalid="ignore"):
            if np.array_equal(right.astype(np.float32).astype(dtype).astype(np.float64), given):
                return name
    for axis in (None, -1, 0):
        if right.ndim < 2 and axis is not None:
            continue
        largest = np.abs(right).max(axis=axis, keepdims=axis is not None)
        for levels in (127.0, 128.0):
            step = np.where(largest, largest, 1) / levels
            made = np.clip(np.rint(right / step), -levels, levels) * step
            if own.name in COARSE:  # the levels are rounded once more, and a few of them the other way
                is_made = (
                    made.astype(np.float32).astype(own).astype(np.float64) == given
                ).mean() > ALMOST_ALL
            else:
                is_made = error(given, made) <= 1e-5
            if is_made:
                return "int8"
    return ""


def _shard(right: np.ndarray, same: Callable[[np.ndarray], bool]) -> str:
    """The shard of a square matrix that is transposed; empty for none."""
    size = len(right)
    for count in SHARDS:
        if size % count:
            continue
        width = size // count
        for axis, of in ((0, "rows"), (1, "columns")):
            for number in range(count):
                part = slice(number * width, (number + 1) * width)
                trial = right.copy()
                if axis == 0:
                    trial[part] = right[:, part].T
                else:
                    trial[:, part] = right[part].T
                if same(trial):
                    return f"shard {number} of {count} ({of})"
                trial = right.copy()
                block = (part, part)
                trial[block] = right[block].T
                if same(trial):
                    return f"block {number} of {count}"
    return ""


def _order(right: np.ndarray, given: np.ndarray, axis: int, unit: float) -> np.ndarray | None:
    """For each row of a port's tensor the row of the reference that it holds; None if one holds none."""
    rows, others = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (right, given))
    if rows.shape[1] < 2:
        return None
    with np.errstate(invalid="ignore"):
        far = np.abs(others[:, None] - rows[None]).max(-1)
    order = far.argmin(-1)
    fits = far[np.arange(len(order)), order] <= unit * np.abs(right).max()
    if np.array_equal(order, np.arange(len(rows))):  # the rows are where they belong, but changed
        return None
    return order if fits.all() and len({*order.tolist()}) > 1 else None


def _permutation(order: np.ndarray) -> str:
    """An order of rows in words."""
    count = len(order)
    natural = np.arange(count)
    for parts in range(2, count):
        if count % parts:
            continue
        blocks = natural.reshape(parts, -1)
        if np.array_equal(order, blocks[::-1].reshape(-1)):
            return f"{parts} blocks in reverse, such as {'gate and up' if parts == 2 else 'heads'}"
        if np.array_equal(order, blocks.T.reshape(-1)):
            return f"{parts} blocks are interleaved, as where a fused matrix is cut by head and not in blocks"
        for inner in range(2, count // parts):
            if (count // parts) % inner == 0:
                trial = natural.reshape(parts, inner, -1).swapaxes(0, 1).reshape(-1)
                if np.array_equal(order, trial):
                    return f"{parts} groups of {inner} blocks are read as {inner} groups of {parts}"
                pairs = natural.reshape(parts, inner, -1).swapaxes(1, 2).reshape(-1)
                if np.array_equal(order, pairs):
                    return f"in each of {parts} heads {inner} parts are interleaved, as for another pairing of RoPE"
    if len({*order.tolist()}) < count:
        return "some are repeated and others are missing, as with key/value heads that are tiled or repeated"
    return "a permutation"


def merged(findings: list[ModelFinding]) -> list[ModelFinding]:
    """One finding for two swapped tensors, for a module that holds another one's tensors, and for each rounding."""
    copied = {each.copied[1]: each for each in findings if each.copied[1]}
    left = [each for each in findings if not each.copied[1]]
    grouped: dict[tuple[str, str], list[ModelFinding]] = defaultdict(list)
    for name, each in copied.items():
        grouped[_modules(name, each.copied[0])].append(each)
    modules = dict(_narrowed(ours, theirs, group) for (ours, theirs), group in grouped.items())
    for (ours, theirs), group in modules.items():
        back = modules.get((theirs, ours))
        if back is not None and all(each.copied[::-1] in [other.copied for other in back] for each in group):
            if ours < theirs:
                place = _common(ours, theirs)
                sign = f"has the weights of {ours} in {theirs} and the reverse: the two are swapped"
                left.append(ModelFinding(place, sign, f"swap {ours} and {theirs}", _worst(group)))
        else:
            sign = f"holds the weights of {theirs}"
            left.append(ModelFinding(ours, sign, f"fill {ours} from {ours} of the reference", _worst(group)))
    return _roundings(left)


def _modules(name: str, other: str) -> tuple[str, str]:
    """The modules of two tensors, without the path that both share at its end."""
    ours, theirs = name.split("."), other.split(".")
    while len(ours) > 1 and len(theirs) > 1 and ours[-1] == theirs[-1]:
        ours, theirs = ours[:-1], theirs[:-1]
    return ".".join(ours), ".".join(theirs)


def _narrowed(
    ours: str, theirs: str, group: list[ModelFinding]
) -> tuple[tuple[str, str], list[ModelFinding]]:
    """Two modules as deep as all their copied tensors are, such as the attention of a layer alone."""
    ends = [each.copied[1].removeprefix(f"{ours}.").split(".")[:-1] for each in group]
    if any(not each.copied[1].startswith(f"{ours}.") for each in group):
        return (ours, theirs), group
    shared = [*takewhile(lambda names: len({*names}) == 1, zip(*ends, strict=False))]
    inner = "".join(f".{names[0]}" for names in shared)
    return (ours + inner, theirs + inner), group


def _common(one: str, other: str) -> str:
    """The path that holds both modules."""
    parts = []
    for a, b in zip(one.split("."), other.split("."), strict=False):
        if a != b:
            break
        parts.append(a)
    return ".".join(parts) or "the model"


def _worst(findings: list[ModelFinding]) -> float:
    return max(each.error for each in findings)


def _roundings(findings: list[ModelFinding]) -> list[ModelFinding]:
    """One finding for all tensors that are rounded to the same dtype."""
    kept, rounded = [], defaultdict(list)
    for each in findings:
        if each.rounded:
            rounded[each.rounded].append(each)
        else:
            kept.append(each)
    for dtype, same in rounded.items():
        if len(same) == 1:
            kept += same
            continue
        sign = f"has {len(same)} tensors rounded to {dtype} on the way"
        places = tuple(each.place for each in same[1:])
        cure = f"copy the weights without a cast to {dtype}"
        kept.append(ModelFinding(same[0].place, sign, cure, _worst(same), places, rounded=dtype))
    return kept
