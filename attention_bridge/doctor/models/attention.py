"""The mistake of an attention layer: its computation is fitted to the reference, then mistakes are planted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import islice, product
from typing import Any

from attention_bridge.doctor.models.angles import other_angles, rescaled, scaling
from attention_bridge.doctor.models.attributes import MEANING
from attention_bridge.doctor.models.core import Core, Given, slopes
from attention_bridge.doctor.models.counts import Relation
from attention_bridge.doctor.models.mistakes import mistakes
from attention_bridge.doctor.models.searches import other_base, other_slopes, other_softcap, other_stretch
from attention_bridge.doctor.models.target import Case, Target

BASES = (10000.0, 500000.0, 1000000.0)
HEADS = (2, 3, 4, 6, 8, 12, 16, 32, 1)
TRIALS = 4000  # pairs of mistakes that are tried
WORK = 1e7  # products of scores in one computation, times the numbers that are fitted to a reference


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
    core, given = right
    port = Target(case, given, case.port, limit)
    if port.fits(core):  # the port computes the same as the reference: the difference is elsewhere
        return None
    for names, query, key in case.before:
        if port._replace(case=case._replace(query=query, key=key)).fits(core):
            return Relation(f"does not apply {names}", f"apply {names}")
    for other in cuts:
        if port._replace(case=other).fits(core):
            return Relation(
                "cuts the fused queries, keys and values in another order than the reference: in blocks or by head",
                "cut the fused result as the reference does",
            )
    length = case.query.shape[1]
    singles = [*mistakes(core, case.embed, length, given.mask is not None)]
    found = sorted(((port.far(each.core), each) for each in singles), key=lambda pair: pair[0])
    fits = [each for distance, each in found if distance <= limit]
    if fits:
        return Relation(" or ".join(dict.fromkeys(each.sign for each in fits[:3])), fits[0].cure)
    if (fitted := _fitted_mistake(core, port)) is not None:
        return fitted
    for number, (_, first) in enumerate(found):
        if number * len(singles) > TRIALS:
            break
        for second in mistakes(first.core, case.embed, length, given.mask is not None):
            if port.fits(second.core):
                return Relation(f"{first.sign} and {second.sign}", f"{first.cure}, and {second.cure}")
    return None


def _fitted_mistake(core: Core, port: Target) -> Relation | None:
    """The mistake in numbers that are fitted to the port: RoPE's base, its scaling, ALiBi's slopes."""
    if (found := other_base(core, port)) is not None:
        said = f"has a RoPE base of {found.base:g}, and the reference {core.base:g}"
        return Relation(said, f"set the base to {core.base:g}")
    if (found := other_slopes(core, port)) is not None and found.slopes is not None:
        right = slopes(core.heads).tolist() if core.slopes is None else [*core.slopes]
        ours = [*found.slopes]
        order = "in another order" if sorted(ours) == sorted(right) else "with other values"
        shown = ", ".join(f"{each:.3g}" for each in right[:4])
        return Relation(f"has ALiBi's slopes {order}", f"give the heads the slopes {shown}, ...")
    if (found := other_softcap(core, port)) is not None:
        right = "the reference does not" if core.softcap is None else f"the reference at {core.softcap:g}"
        return Relation(
            f"caps the scores at {found.softcap:g}, and {right}", "cap them as the reference does"
        )
    if core.rope == "none":
        return None
    dim = core.turned or port.case.query.shape[-1] // core.heads
    right_scaling = scaling(core, dim)
    bare = replace(core, theta=None, amplitude=1.0, stretch=1.0)
    if right_scaling and port.fits(bare):
        return Relation(
            f"does not scale positions in RoPE, where the reference has {right_scaling}",
            "scale the angles of RoPE as the reference does",
        )
    for begin in (core, bare):
        found = other_stretch(begin, port) if begin.theta is None else None
        found = other_angles(begin, port) if found is None else found
        if found is not None and (factor := rescaled(core, found, dim)) is not None:
            said = f"multiplies the scores by {factor:.4g} times the reference's scale"
            return Relation(said, "scale the scores as the reference does")
        if found is not None and right_scaling:  # the base and the factor of a scaling cannot be told apart
            return Relation(
                f"turns by other angles in RoPE than the reference, which has {right_scaling}: "
                "its base or its scaling differs",
                "take the base and the scaling of RoPE from the reference",
            )
        if found is not None:
            ours_said = scaling(found, dim)
            return Relation(
                f"has {ours_said or 'no scaling'} in RoPE, and the reference no scaling",
                "scale the angles of RoPE as the reference does",
            )
    return None


def _fitted(module: Any, case: Case, limit: float) -> tuple[Core, Given] | None:
    """The computation that gives the reference's output, with its mask, bias and KV cache."""
    targets = [Target(case, given, case.right, limit) for given in case.givens]
    for target in targets:
        for core in _cores(module, case, target.given):
            if target.fits(core):
                return core, target.given
    tried = [
        (target.far(core), number, core, target)
        for number, target in enumerate(targets)
        for core in _cores(module, case, target.given, turned=True)
    ]
    nearest = sorted(tried, key=lambda each: each[:2])
    fits = ((core, target, fit) for _, _, core, target in nearest for fit in FITS)
    for core, target, fit in islice(fits, max(1, int(WORK / (case.query.size * case.key.shape[1])))):
        if (found := fit(core, target)) is not None:
            return found, target.given
    return None


FITS: tuple[Callable[[Core, Target], Core | None], ...] = (
    other_base,
    other_slopes,
    other_stretch,
    lambda core, target: other_softcap(core, target, BASES),
    lambda core, target: other_angles(core, target, BASES),
)


def _cores(module: Any, case: Case, given: Given, *, turned: bool = False) -> Iterator[Core]:
    """Computations that the reference may have, likely ones first; with `turned` one of each pairing of RoPE."""
    base = option(module, "base")
    bases = (float(base),) if base else BASES
    ropes: list[tuple[str, float]] = [("half", b) for b in bases]
    ropes += [("none", 1e4), *(("interleaved", b) for b in bases)]
    if turned:
        ropes = [("half", 1e4), ("interleaved", 1e4), ("none", 1e4)]
    scale, cap, window = (option(module, name) for name in ("scale", "softcap", "window"))
    scales = (None,) if turned else dict.fromkeys((None, scale, 1.0))
    before = 0 if given.past is None else given.past[0].shape[2]
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
                            for alibi in _biases(rope, turned=turned):
                                yield Core(
                                    heads, kv_heads, causal, near, factor, limit, rope, rope_base, part, alibi=alibi,
                                    mask="none" if given.mask is None else "keys", first=before, first_key=before,
                                    offset=before, bias="none" if given.bias is None else "given",
                                )  # fmt: skip


def _biases(rope: str, *, turned: bool) -> tuple[str, ...]:
    """The kinds of ALiBi that may be added beside a kind of RoPE."""
    if rope != "none":
        return ("none",)
    return ("slopes",) if turned else ("none", "slopes")


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
