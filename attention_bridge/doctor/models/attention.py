"""The mistake of an attention layer: its computation is fitted to the reference, then mistakes are planted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.doctor.models.attributes import MEANING
from attention_bridge.doctor.models.core import Core, attend
from attention_bridge.doctor.models.mistakes import mistakes
from attention_bridge.doctor.models.relations import Relation
from attention_bridge.parity.measure import error

BASES = (10000.0, 500000.0, 1000000.0)
GRID = np.geomspace(10, 1e8, 141)
HEADS = (2, 3, 4, 6, 8, 12, 16, 32, 1)
TRIALS = 4000  # pairs of mistakes that are tried
Array = np.ndarray


class Case(NamedTuple):
    """An attention layer on one input.

    Attributes:
        query, key, value: results of the projections, `(batch, length, features)`.
        right: output of the reference, before the output projection unless `project` is given.
        port: the same of the port.
        masks: possible masks, `(batch, 1, query|1, key)`.
        embed: number of features of the layer's input.
        project: the output projection, if `right` and `port` are behind it; None if they are before it.
    """

    query: Array
    key: Array
    value: Array
    right: Array
    port: Array
    masks: tuple[Array, ...]
    embed: int
    project: Callable[[Array], Array] | None = None


def attention_mistake(
    module: Any, case: Case, tolerance: float, cuts: Iterable[Case] = ()
) -> Relation | None:
    """Name the mistake of an attention layer, or the pair of mistakes.

    Args:
        module: PyTorch module, whose options are tried first.
        case: the layer on one input.
        tolerance: largest relative error that rounding explains.
        cuts: the same layer with its fused result cut in other orders.

    Returns:
        The mistake; None if no known computation gives the reference, or no mistake gives the port.
    """
    limit = max(1e-5, 4 * tolerance)
    right = _fitted(module, case, limit)
    if right is None:
        return None
    core, mask = right

    def far(trial: Core) -> float:
        return _far(trial, case, mask, case.port)

    if far(core) <= limit:  # the port computes the same as the reference: the difference is elsewhere
        return None
    for other in cuts:
        if _far(core, other, mask, case.port) <= limit:
            return Relation(
                "cuts the fused queries, keys and values in another order than the reference: in blocks or by head",
                "cut the fused result as the reference does",
            )
    singles = [*mistakes(core, case.embed, case.query.shape[1], mask is not None)]
    found = sorted(((far(each.core), each) for each in singles), key=lambda pair: pair[0])
    fits = [each for distance, each in found if distance <= limit]
    if fits:
        return Relation(" or ".join(dict.fromkeys(each.sign for each in fits[:3])), fits[0].cure)
    if (base := _other_base(core, far, limit)) is not None:
        return Relation(
            f"has a RoPE base of {base:g}, and the reference {core.base:g}", f"set the base to {core.base:g}"
        )
    for number, (_, first) in enumerate(found):
        if number * len(singles) > TRIALS:
            break
        for second in mistakes(first.core, case.embed, case.query.shape[1], mask is not None):
            if far(second.core) <= limit:
                return Relation(f"{first.sign} and {second.sign}", f"{first.cure}, and {second.cure}")
    return None


def _far(core: Core, case: Case, mask: Array | None, outputs: Array) -> float:
    try:
        with np.errstate(all="ignore"):
            made = attend(core, case.query, case.key, case.value, mask)
            made = made if case.project is None else case.project(made)
    except ValueError:
        return np.inf
    return error(made, outputs) if made.shape == outputs.shape else np.inf


def _fitted(module: Any, case: Case, limit: float) -> tuple[Core, Array | None] | None:
    """The computation that gives the reference's output, and its mask."""
    for mask in (None, *case.masks):
        for core in _cores(module, case, mask):
            if _far(core, case, mask, case.right) <= limit:
                return core, mask
    for mask in (None, *case.masks):
        for core in _cores(module, case, mask, turned=True):

            def far(trial: Core, mask: Array | None = mask) -> float:
                return _far(trial, case, mask, case.right)

            if (base := _other_base(core, far, limit)) is not None:
                return replace(core, base=base), mask
    return None


def _cores(module: Any, case: Case, mask: Array | None, *, turned: bool = False) -> Iterator[Core]:
    """Computations that the reference may have, likely ones first; with `turned` one of each pairing of RoPE."""
    base = option(module, "base")
    bases = (float(base),) if base else BASES
    ropes: list[tuple[str, float]] = [("half", b) for b in bases]
    ropes += [("none", 1e4), *(("interleaved", b) for b in bases)]
    if turned:
        ropes = [("half", 1e4), ("interleaved", 1e4)]
    scale, cap, window = (option(module, name) for name in ("scale", "softcap", "window"))
    scales = (None,) if turned else dict.fromkeys((None, scale, 1.0))
    for heads in _heads(module):
        width = case.query.shape[-1] // heads
        if case.query.shape[-1] % heads or case.key.shape[-1] % width:
            continue
        kv_heads = case.key.shape[-1] // width
        if heads % kv_heads:
            continue
        for causal in (True, False):
            for rope, rope_base in ropes:
                if rope != "none" and width % 2:
                    continue
                few = [part for part in (width // 2, width // 4) if part > 1 and part % 2 == 0]
                parts = (None, *few) if rope != "none" else (None,)
                for part, factor in product(parts, scales):
                    for limit in dict.fromkeys((cap, None)):
                        for near in dict.fromkeys((window, None)):
                            for alibi in ("none",) if turned or rope != "none" else ("none", "slopes"):
                                yield Core(
                                    heads, kv_heads, causal, near, factor, limit, rope, rope_base, part, alibi=alibi,
                                    mask="none" if mask is None else "keys",
                                )  # fmt: skip


def _heads(module: Any) -> tuple[int, ...]:
    given = option(module, "num_heads")
    return (int(given),) if given else HEADS


def option(module: Any, wanted: str) -> Any:
    """The value of an option of a module, of its configuration, or of a part; None for none."""
    parts = dict(getattr(module, "_modules", {})).values()
    for holder in (module, getattr(module, "config", None), *parts):
        for name, value in {**getattr(holder, "__dict__", {})}.items():
            if MEANING.get(name, name) == wanted and isinstance(value, (int, float)) and value > 0:
                return value
    return None


def _other_base(core: Core, far: Callable[[Core], float], limit: float) -> float | None:
    """The base of RoPE with which outputs fit; None if none does."""
    if core.rope == "none":
        return None

    def at(base: float) -> float:
        return far(replace(core, base=float(base)))

    errors = [at(base) for base in GRID]
    place = int(np.argmin(errors))
    low, high = GRID[max(place - 1, 0)], GRID[min(place + 1, len(GRID) - 1)]
    for _ in range(50):
        third = (high / low) ** (1 / 3)
        one, other = low * third, high / third
        low, high = (low, other) if at(one) < at(other) else (one, high)
    base = float(np.sqrt(low * high))
    whole = float(f"{base:.3g}")
    if at(whole) <= limit:
        return whole
    return base if at(base) <= limit else None
