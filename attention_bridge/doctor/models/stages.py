"""The submodules of a port that differ from the reference on equal inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch

from attention_bridge.doctor.models.core import HIDDEN
from attention_bridge.doctor.models.recording import (
    AllRecords,
    Record,
    Records,
    all_of_jax,
    all_of_torch,
    back,
    call_jax,
    call_torch,
    fields,
    fitting,
    is_additive_mask,
    is_float,
    is_mask,
    record_torch,
    recorded,
    with_other_masks,
)
from attention_bridge.errors import InputError
from attention_bridge.parity.calls import Calls
from attention_bridge.parity.couple import Couple
from attention_bridge.parity.measure import COARSE, CONSTANT, SMALL, UNIT_ROUNDOFF, error
from attention_bridge.parity.stages import submodules

# In float32 and float64 rounding explains this many unit roundoffs of a submodule's largest output, or four times the
# error of the reference's own submodule.
UNITS = 64.0
UNITS_OF_A_NORM = 8.0  # the same for a norm, which sums once: an eps may change it by little more
INSIDE = 4.0  # the same between inner submodules, where the reference is not exact


class Pair(NamedTuple):
    """Outputs of a submodule by name: the port's, the right ones in float64, and the reference's own rounded ones."""

    port: dict[str, np.ndarray]
    right: dict[str, np.ndarray]
    own: dict[str, np.ndarray]


class Entry(NamedTuple):
    """An input that a submodule gives to one of its inner submodules: the port's, the reference's, and its error."""

    path: str
    port: np.ndarray
    right: np.ndarray
    error: float
    bound: float


Made = tuple[dict[str, np.ndarray], AllRecords]  # outputs by name, and the calls inside


@dataclass
class Stages:
    """A couple of models on one input, and their submodules on equal inputs.

    Attributes:
        couple: the reference and the port, whose weights are right.
        calls: the inputs.
        jax_module: the port that is examined: it may be a copy with the right weights.
        free: inner submodules by the path of the one around them that compute by themselves when that one is compared,
            because both are right only together.
        turn: number of the call of each submodule that is compared: 0 for the first, such as a prefill, 1 for the
            second, such as a decode step.
    """

    couple: Couple
    calls: Calls
    jax_module: Any
    free: dict[str, frozenset[str]] = field(default_factory=dict)
    turn: int = 0

    @cached_property
    def exact(self) -> torch.nn.Module:
        """The reference in float64."""
        return deepcopy(self.couple.torch_module).double()

    @cached_property
    def all_theirs(self) -> AllRecords:
        """All calls of the reference's submodules."""
        return all_of_torch(self.couple.torch_module, self.calls)

    @cached_property
    def theirs(self) -> Records:
        """The reference's calls."""
        return self._of_turn(self.all_theirs)

    def later_turns(self) -> list[int]:
        """The numbers of the second and of the last calls; none if no submodule is called again."""
        count = max(len(each) for path, each in self.all_theirs.items() if path in self.paths or not path)
        return sorted({1, count - 1}) if count > 1 else []

    def _same_turn(self) -> list[str]:
        """The submodules with as many calls as the submodules inside them."""
        return [
            path
            for path in self.paths
            if all(
                each is self.theirs[inner]
                for inner in self.inside(path)
                for each in self.within(path, inner)[:1]
            )
        ]

    def _of_turn(self, records: AllRecords) -> Records:
        """The calls of one turn; the model itself is called once."""
        last = {path: each[min(self.turn, len(each) - 1)] for path, each in records.items()}
        return {path: each for path, each in last.items() if not path or len(records[path]) > self.turn}

    @cached_property
    def right(self) -> dict[str, np.ndarray]:
        """The reference's outputs in float64."""
        inputs = {
            name: x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype.kind not in "biu" else x
            for name, x in self.calls.inputs.items()
        }
        calls = Calls(inputs, self.calls.positional, self.calls.of_torch, self.calls.of_jax)
        return dict(record_torch(self.exact, calls)[""].outputs)

    @cached_property
    def parts(self) -> dict[str, Any]:
        """The port's submodules by path."""
        return dict(submodules(self.jax_module))

    @cached_property
    def all_ours(self) -> AllRecords:
        """All calls of the port's submodules."""
        return all_of_jax(self.jax_module, self.calls, self.parts)

    @cached_property
    def ours(self) -> Records:
        """The port's calls."""
        return self._of_turn(self.all_ours)

    @cached_property
    def paths(self) -> dict[str, str]:
        """Paths of the reference's submodules and the port's, in the order of the reference's calls."""
        pairs = self.couple.submodules()
        return {path: pairs[path] for path in self.theirs if path in pairs and pairs[path] in self.ours}

    def outputs(self) -> tuple[float, float]:
        """The error of the port's outputs, and the largest that rounding explains."""
        ours, theirs = self.couple.matched(dict(self.theirs[""].outputs), dict(self.ours[""].outputs))
        far, bound = 0.0, 0.0
        for name, own in ours.items():
            right = self.right[name].astype(np.float64)
            bound = max(bound, tolerance(own, right))
            far = max(far, error(theirs[name].astype(np.float64), right))
        return far, bound

    def deviation(self, path: str) -> tuple[float, float] | None:
        """The error of a submodule on equal inputs, and the largest that rounding explains; None if not comparable.

        The inner submodules return the reference's outputs, so that only the submodule's own computation counts: the
        inputs that it gives to them, and its output.
        """
        found = self.errors(path, self.free.get(path, frozenset()))
        return max(found.values(), key=lambda pair: pair[0] / pair[1]) if found else None

    def errors(self, path: str, free: frozenset[str]) -> dict[str, tuple[float, float]]:
        """The errors of a submodule's outputs, and of its inner submodules' inputs by path, each with its bound."""
        found = self.pair(path, free)
        if found is None:
            return {}
        units = UNITS_OF_A_NORM if self.is_vector(path) else UNITS
        made = {
            f"output {name}": (
                error(found.port[name].astype(np.float64), array),
                tolerance(found.own[name], array, units),
            )
            for name, array in found.right.items()
        }
        for each in self.entries(path, free):  # the worst of several inputs, such as a state and a mask
            far, bound = made.get(each.path, (0.0, 1.0))
            if each.path not in made or each.error / each.bound > far / bound:
                made[each.path] = (each.error, each.bound)
        return made

    def is_vector(self, path: str) -> bool:
        """Whether a submodule of the reference has vectors alone, as a norm has, and no submodules."""
        module = self.couple.torch_module.get_submodule(path)
        own = [*module.parameters()]
        return bool(own) and not [*module.children()] and all(each.ndim == 1 for each in own)

    def entries(self, path: str, free: frozenset[str] | None = None) -> list[Entry]:
        """The inputs that a submodule gives to its inner submodules, in the order of the reference's calls."""
        made = self.alone(path, free)
        if made is None:
            return []
        found = []
        for inner in sorted(self.inside(path), key=[*self.theirs].index):
            calls, ours = self.within(path, inner), made[1].get(self.paths[inner], [])
            if len(calls) != len(ours):  # some classes try a part on a single position first
                ours = [each for each in ours if _fits(calls[:1], each)] or ours
            for number, (theirs, port) in enumerate(zip(calls, ours, strict=False)):
                wrong = self._mask_is_wrong(path, inner, free, number)
                found += [*_entries(inner, theirs, port, wrong)]
        return found

    def _mask_is_wrong(
        self, around: str, path: str, free: frozenset[str] | None, number: int
    ) -> Callable[[], bool]:
        """Whether another mask of a call gives other outputs in a submodule that is right on equal inputs.

        In some classes True hides a key, in others it shows one: another mask alone is no mistake.
        """

        def wrong() -> bool:
            made = self.alone(around, free, run=True)
            calls = made[1].get(self.paths[path], []) if made else []
            port = calls[number].output if number < len(calls) else None
            right = self.within(around, path)[number].output
            if port is None or right is None:
                return True
            exact = right.astype(np.float64)
            if error(back(port, right).astype(np.float64), exact) <= INSIDE * tolerance(right, exact):
                return False
            alone = self.deviation(path)
            return alone is not None and alone[0] <= alone[1]

        return wrong

    def pair(self, path: str, free: frozenset[str] | None = None) -> Pair | None:
        """The outputs of a submodule on equal inputs, its inner submodules replaced by the reference's outputs.

        Returns:
            None if the submodule cannot be called with the reference's inputs.
        """
        record = self.theirs[path]
        made = self.alone(path, free)
        if made is None:
            return None
        port, given = made[0], dict(record.outputs)
        if path:
            port = dict(zip(given, port.values(), strict=False))
            given = {name: given[name] for name in port}
            right = self._exact(path, record)
        else:
            given, port = self.couple.matched(given, port)
            right = {name: self.right[name].astype(np.float64) for name in given}
        if not port or port.keys() != given.keys() or not right.keys() >= given.keys():
            return None
        right = {name: right[name] for name in given}
        floats = [name for name, x in right.items() if x.dtype.kind == "f"]
        if not floats:
            return None
        port = {name: back(port[name], given[name]) for name in floats}
        return Pair(port, {name: right[name] for name in floats}, {name: given[name] for name in floats})

    def alone(self, path: str, free: frozenset[str] | None = None, *, run: bool = False) -> Made | None:
        """The port's outputs of a submodule as in `pair`, and the calls inside it; None if it cannot be called.

        With `run`, inner submodules run although their outputs are replaced.
        """
        free = self.free.get(path, frozenset()) if free is None else free
        if (path, free, run) not in self._alone:
            self._alone[path, free, run] = self._made_alone(path, free, run)
        return self._alone[path, free, run]

    def _made_alone(self, path: str, free: frozenset[str], run: bool) -> Made | None:
        place = self.paths.get(path, "")
        given = {
            self.paths[each]: self.within(path, each)
            for each in self.inside(path)
            if each not in free and self.theirs[each].output is not None
        }
        own = (
            None if run else {each: _inside(self.ours[place], calls) for each, calls in self.all_ours.items()}
        )
        with recorded(self.jax_module, given, own, self.parts) as records:
            try:
                if path:
                    made = call_jax(self.parts[place], self._given(path), self.ours[place])
                else:
                    inputs = {
                        name: jnp.asarray(x) if isinstance(x, np.ndarray) else x
                        for name, x in self.calls.inputs.items()
                    }
                    made = fields(self.calls.call_jax(self.jax_module, inputs))
            except (TypeError, ValueError, InputError):
                return None
        return (made, records) if made else None

    def within(self, path: str, inner: str) -> list[Record]:
        """The reference's calls of a submodule inside the call of another one."""
        return _inside(self.theirs[path], self.all_theirs[inner])

    def forget(self) -> None:
        """Forget the outputs of submodules, because an option of the port changes."""
        self._alone.clear()

    def inside(self, path: str) -> list[str]:
        """The outermost submodules within a submodule that correspond in both models and return an array first."""
        prefix = f"{path}." if path else ""
        found: list[str] = []
        for other in sorted(self.paths, key=lambda each: each.count(".")):
            if not other.startswith(prefix) or other == path:
                continue
            if self.theirs[other].output is not None and not any(other.startswith(f"{p}.") for p in found):
                found.append(other)
        return found

    def _given(self, path: str) -> Record:
        """The reference's call of a submodule, with its masks as the port's class means them."""
        record, own = self.theirs[path], self.ours[self.paths[path]]
        other = with_other_masks(record, own)
        right = record.output
        if other is None or right is None:
            return record

        def far(given: Record) -> float:
            made = call_jax(self.parts[self.paths[path]], given, own)
            return error(back(next(iter(made.values())), right).astype(np.float64), right) if made else np.inf

        return min((record, other), key=far)

    def _exact(self, path: str, record: Record) -> dict[str, np.ndarray]:
        if path not in self._cache:
            self._cache[path] = call_torch(self.exact.get_submodule(path), record, torch.float64)
        return self._cache[path]

    @cached_property
    def _alone(self) -> dict[tuple[str, frozenset[str], bool], Made | None]:
        return {}

    @cached_property
    def _cache(self) -> dict[str, dict[str, np.ndarray]]:
        return {}

    def wrong(self) -> dict[str, float]:
        """The submodules whose own computation differs, with their errors.

        Where a submodule and the one around it are right together, such as embeddings that are scaled inside in one
        model and outside in the other, neither is wrong.
        """
        far = {}
        for path in (*self.paths, "") if self.turn == 0 else self._same_turn():
            found = self.deviation(path)
            if found is not None and found[0] > found[1]:
                far[path] = found[0]
        for path in [*far]:
            for inner in self.inside(path):
                if inner not in far:
                    continue
                before, after = (
                    {name for name, (far_off, bound) in self.errors(path, free).items() if far_off > bound}
                    for free in (frozenset(), frozenset({inner}))
                )
                if after < before:
                    del far[inner]
                    self.free[path] = self.free.get(path, frozenset()) | {inner}
            found = self.deviation(path) if path in self.free else None
            if found is not None and found[0] <= found[1]:
                del far[path]
        return far


def _inside(around: Record, calls: list[Record]) -> list[Record]:
    """The calls that begin and end inside another one."""
    first, last = around.span
    return [each for each in calls if first < each.span[0] and each.span[1] < last]


def _fits(calls: list[Record], ours: Record) -> bool:
    """Whether the first array of a call has the shape of the first array of the reference's calls."""
    first = [floats(each.nested())[:1] for each in (*calls, ours)]
    return all(first) and len({back(each[0], first[0][0]).shape for each in first}) == 1


def _entries(path: str, theirs: Record, ours: Record, mask_is_wrong: Callable[[], bool]) -> Iterator[Entry]:
    """The inputs of one call of a submodule: the port's beside the reference's."""
    given, own = theirs.nested(), ours.nested()
    if len(given) != len(own):
        given, own = theirs.arrays(), ours.arrays()
    for right, port in zip(integers(given), integers(own), strict=False):
        differ = right.shape == port.shape and (right != port).any()
        if differ and (not (is_mask(right) and is_mask(port)) or mask_is_wrong()):
            yield Entry(path, port, right, np.inf, 1.0)
    rights, ports = floats(given), floats(own)
    pairs = [*zip(rights, ports, strict=False)]
    if len(rights) != len(ports) and len(rights) > 1 and len(ports) > 1:
        pairs = [(x, ports[place]) for x, place in fitting(rights, ports)]
    for right, port in pairs:
        if is_additive_mask(right) and is_additive_mask(port) and right.shape == port.shape:
            shown, wanted = (x > HIDDEN for x in (port, right))
            if (shown != wanted).any():
                yield Entry(path, shown, wanted, np.inf, 1.0)
            continue
        moved, exact = back(port, right), right.astype(np.float64)
        far = error(moved.astype(np.float64), exact) if moved.shape == right.shape else np.inf
        yield Entry(path, moved, right, far, INSIDE * tolerance(right, exact))


def floats(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays of floating-point numbers."""
    return [x for x in arrays if is_float(x)]


def integers(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """The arrays of integers and of truth values."""
    return [x for x in arrays if x.dtype.kind in "biu"]


def tolerance(own: np.ndarray, right: np.ndarray, units: float = UNITS) -> float:
    """The largest error that rounding explains, from the reference's own in the same dtype."""
    name = own.dtype.name
    mine = error(own.astype(np.float64), right)
    if name in COARSE:
        return min(SMALL, CONSTANT * max(UNIT_ROUNDOFF[name], mine))
    return min(SMALL, max(units * UNIT_ROUNDOFF.get(name, 2.0**-53), CONSTANT * mine))
