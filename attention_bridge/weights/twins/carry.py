"""The tensors of aligned layers, carried from one module to the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attention_bridge.errors import Fault
from attention_bridge.weights.leaves import spec
from attention_bridge.weights.report import Match, Note, Report
from attention_bridge.weights.rule import IDENTITY
from attention_bridge.weights.twins.alignment import Pair
from attention_bridge.weights.twins.layers import Layer, Leaf

CELLS = ("gru", "lstm", "rnn")
Arrays = dict[str, np.ndarray]


class Carrier:
    """Carries the tensors of pairs of layers.

    Args:
        tensors: the source's tensors by name.
        wanted: the target's leaves by name.
        report: where matches and faults are put.
    """

    def __init__(self, tensors: Mapping[str, np.ndarray], wanted: Mapping[str, Any], report: Report) -> None:
        self.tensors, self.wanted, self.report = tensors, wanted, report
        self.filled: Arrays = {}
        self.stacks: dict[str, dict[int, np.ndarray]] = {}
        self.origins: dict[str, list[str]] = {}
        self.patterns: dict[str, list[str]] = {}

    def carry(self, pair: Pair) -> None:
        """Fill the target's layer of a pair, or report why it does not fit."""
        if pair.source.kind != pair.target.kind:
            expected = f"a {pair.target.kind}, as {pair.target.name} is"
            self.report.faults.append(
                Fault(pair.source.name, "unexpected", expected, f"a {pair.source.kind}")
            )
            return
        given: Arrays = {}
        origins: dict[str, str] = {}
        for leaf in pair.source.leaves:
            array = self.tensors[leaf.name]
            given |= leaf.canonical(array if leaf.number is None else array[leaf.number])
            origins |= dict.fromkeys(leaf.roles, leaf.name)
        wanted = {role: leaf for leaf in pair.target.leaves for role in leaf.roles}
        if pair.source.kind in CELLS:
            self._cell(pair, given, wanted.keys() - given.keys(), given.keys() - wanted.keys())
        for role in given.keys() - wanted.keys():
            shown = f"{given[role].shape} {given[role].dtype}"
            expected = f"no {role} in {pair.target.name}, {_a(pair.target)}"
            self.report.faults.append(Fault(origins[role], "unexpected", expected, shown))
        for leaf in pair.target.leaves:
            lacking = [role for role in leaf.roles if role not in given]
            if lacking:
                expected = f"{lacking[0]}, which {pair.source.name}, {_a(pair.source)}, does not have"
                self.report.faults.append(Fault(leaf.name, "missing", expected, ""))
            else:
                names = [origins[role] for role in leaf.roles if role in origins]
                self._fill(leaf, given, pair, names)

    def _fill(self, leaf: Leaf, given: Arrays, pair: Pair, origins: list[str]) -> None:
        expected = spec(leaf.name, self.wanted[leaf.name])
        shape = expected.shape if leaf.number is None else expected.shape[1:]
        for role in leaf.roles:
            right = pair.target.shapes[role]
            if given[role].shape != right:
                shown = f"{given[role].shape} {given[role].dtype}"
                self.report.faults.append(Fault(leaf.name, "wrong shape", f"{right} {expected.dtype}", shown))
                return
        array = leaf.stored(given, shape)
        if array.dtype != expected.dtype:
            self.report.faults.append(
                Fault(leaf.name, "wrong dtype", str(expected), f"{array.shape} {array.dtype}")
            )
            return
        if leaf.name in self.filled:
            self._again(leaf, array, origins)
            return
        if leaf.number is None:
            self.filled[leaf.name] = array
        else:
            self.stacks.setdefault(leaf.name, {})[leaf.number] = array
        self.origins.setdefault(leaf.name, []).extend(origins)
        both = [each.pattern for each in pair.source.leaves if {*each.roles} & {*leaf.roles}]
        ours, canonical = leaf.pattern.split(" -> ")
        both.append(f"{canonical} -> {ours}")
        self.patterns.setdefault(leaf.name, []).extend(each for each in both if each != IDENTITY)

    def _again(self, leaf: Leaf, array: np.ndarray, origins: list[str]) -> None:
        """A tensor that several layers of the target share: all values must be equal."""
        if array.tobytes() == self.filled[leaf.name].tobytes():
            first = self.origins[leaf.name][0]
            self.report.ignored += [Note(each, f"shares its tensor with {first}") for each in origins]
        else:
            self.report.faults.append(Fault(leaf.name, "clash", "one tensor, shared", "different values"))

    def finish(self) -> Arrays:
        """The target's tensors by name, with each stack whose layers are all there."""
        for name, layers in self.stacks.items():
            count = self.wanted[name].shape[0]
            lacking = [str(number) for number in range(count) if number not in layers]
            if lacking:
                expected = f"all {count} layers of a stack"
                self.report.faults.append(Fault(name, "missing", expected, f"none for {', '.join(lacking)}"))
            else:
                self.filled[name] = np.stack([layers[number] for number in range(count)])
        for name in self.filled:
            given, patterns = (
                tuple(dict.fromkeys(self.origins[name])),
                tuple(dict.fromkeys(self.patterns[name])),
            )
            self.report.matched.append(Match(name, given, patterns))
        return self.filled

    def _cell(self, pair: Pair, given: Arrays, missing: set[str], spare: set[str]) -> None:
        """Join or split the two biases of a recurrent cell, which are added to each other in most gates."""
        for role in sorted(missing):
            other = role.replace("ih", "hh") if role.startswith("ih") else role.replace("hh", "ih")
            if " bias " in role and other in given:
                given[role] = np.zeros_like(given[other])
                self.report.synthesised.append(
                    Note(f"{pair.target.name}: {role}", "zeros beside the other bias")
                )
        for role in sorted(spare):
            other = role.replace("ih", "hh") if role.startswith("ih") else role.replace("hh", "ih")
            if " bias " not in role or other not in given:
                continue
            alone = pair.source.kind == "gru" and role.endswith(
                " 2"
            )  # inside the product with the reset gate
            if not given[role].any():
                del given[role]
            elif not alone:
                given[other] = given[other] + given.pop(role)
                self.report.synthesised.append(Note(f"{pair.target.name}: {other}", f"the sum with {role}"))


def _a(layer: Layer) -> str:
    return f"a layer of the class {layer.title}"
