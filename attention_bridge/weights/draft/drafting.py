"""`draft_layout`: a table of rules between two models of one's own, proposed from their tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from attention_bridge.errors import InputError, cut
from attention_bridge.weights.containers import Container, open_container, tied_names
from attention_bridge.weights.draft.axes import Axes
from attention_bridge.weights.draft.bundles import COUNTERS, bundles_of
from attention_bridge.weights.draft.choices import Choice, Decisions, decide
from attention_bridge.weights.draft.forms import Link
from attention_bridge.weights.draft.heads import possible_heads
from attention_bridge.weights.draft.rules import Line, lines
from attention_bridge.weights.draft.running import runner
from attention_bridge.weights.draft.settling import Search, Settled
from attention_bridge.weights.draft.source import python_source, toml_source
from attention_bridge.weights.engine import route
from attention_bridge.weights.layout import Dropped, Layout, Tied
from attention_bridge.weights.layouts.plain import PLAIN
from attention_bridge.weights.leaves import framework, is_torch, spec
from attention_bridge.weights.placeholders import ghost
from attention_bridge.weights.report import Report

COMPUTED = re.compile(
    r"(^|[./])(inv_freq|masked_bias|attn_mask|causal_mask|mask|tril|position_ids|freqs|freqs_cis|cos|sin|cos_cached|"
    r"sin_cached|num_batches_tracked)$"
)
NAME = re.compile(r"[A-Za-z_]\w*")


@dataclass(frozen=True)
class Guess:
    """A decision that no name, shape or type makes.

    Attributes:
        rules: the rules that rest on it, as (name pattern in `a`, name pattern in `b`).
        reason: the guess, in words.
        is_settled: whether activations have settled it.
    """

    rules: tuple[tuple[str, str], ...]
    reason: str
    is_settled: bool


@dataclass(frozen=True)
class Draft:
    """A proposed layout; printed, it is Python source to paste.

    Attributes:
        layout: the layout; its names are the names in `a`, its canonical names the names in `b`.
        guesses: the decisions that no name, shape or type makes.
        error: largest difference between the outputs of both models with equal random weights, relative to the
            largest output; None if they were not run.
        agrees: whether the outputs agree; None if they were not run.
        source: Python source of the layout.
        toml: the layout as TOML.
    """

    layout: Layout
    guesses: tuple[Guess, ...]
    error: float | None
    agrees: bool | None
    source: str
    toml: str

    @property
    def open_guesses(self) -> tuple[Guess, ...]:
        """The guesses that activations have not settled."""
        return tuple(each for each in self.guesses if not each.is_settled)

    def __str__(self) -> str:
        return self.source


def draft_layout(
    a: Any,
    b: Any,
    *,
    inputs: Any = None,
    inputs_b: Any = None,
    functions: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
    names: Mapping[str, str] | None = None,
    axes: Mapping[str, int] | None = None,
    name: str = "mine",
) -> Draft:
    """Propose the layout between two models that no table knows, from names, shapes, dtypes and order of their tensors.

    Layers are aligned as in `transfer`. A fused tensor, such as one for queries, keys and values, is cut where the
    other model has its parts. Decisions that nothing determines are guesses, and are marked in the source. With
    `inputs`, both models are run with equal random weights, and the guesses are settled where the outputs then agree:
    the order of the axes of square matrices, the order of fused parts, fusing by block or by head, the pairs of
    rotary positions, and layers that nothing tells apart. The modules keep their own weights.

        draft = draft_layout(torch_model, nnx_model, inputs=tokens)
        print(draft)
        transfer(torch_model, nnx_model, source_layout=draft.layout, target_layout="plain")

    Args:
        a: torch module, mapping of names to torch tensors or numpy arrays, NNX module, NNX state, Equinox module, or
            Linen or Haiku tree. Its names are the names of the layout.
        b: object of any of these kinds; its names are the canonical names of the layout.
        inputs: inputs of both models: one array, a tuple of positional inputs, or a mapping of inputs by name; None
            to run neither.
        inputs_b: inputs of `b` if they differ, such as images with the channels last; None for the same.
        functions: functions that run the tensors of `a` and of `b`, each called with a mapping of tensors by name,
            then the inputs; None to call the modules.
        names: names of modules or paths of `a`, and the names in `b`, such as ``{"stack": "blocks"}``; None for none.
        axes: sizes of axes, such as ``{"h": num_heads}``; None to read them from the modules' attributes.
        name: name of the layout.

    Returns:
        The draft.

    Raises:
        InputError: the models do not have the same layers, or cannot be run.
        TypeError: `a` or `b` holds no tensors.
    """
    if not NAME.fullmatch(name):
        raise InputError(f"name must be a name of letters, digits and underscores, got {name!r}")
    if functions is not None and inputs is None:
        raise InputError("functions= needs inputs=, with which they are called")
    given, wanted = open_container(a), open_container(b)
    for container, which in ((given, "a"), (wanted, "b")):
        if not container.leaves:
            raise InputError(f"{which} must hold tensors, got none")
    deep = inputs is not None
    heads = possible_heads((a, b), axes or {}, deep)
    decisions, spare = _decisions(a, b, given, wanted, names or {}, heads, deep)
    settled = None
    if deep:
        settled = _settled(
            decisions, (a, b), (given, wanted), functions, (inputs, inputs if inputs_b is None else inputs_b)
        )
    return _draft(decisions, spare, settled, (given, wanted), name)


Heads = Callable[[Link], Sequence[int]]


def _decisions(
    a: Any,
    b: Any,
    given: Container,
    wanted: Container,
    names: Mapping[str, str],
    heads: Heads,
    deep: bool,
) -> tuple[Decisions, list[Tied | Dropped]]:
    """The decisions, and the tensors of `a` without a counterpart that are copies or are computed."""
    spare: list[Tied | Dropped] = []
    aliases = {name: same[0] for same in tied_names(given.leaves) for name in same[1:]}
    theirs, ours = bundles_of(a, given), bundles_of(b, wanted)
    found = decide(theirs, ours, names, heads, deep)
    if aliases and found.target_left:
        whole = bundles_of(a, given, with_aliases=True)
        again = decide(whole, ours, names, heads, deep)
        if len(again.source_left) + len(again.target_left) < len(found.source_left) + len(found.target_left):
            found, aliases = again, {}
    spare += [Tied(name, to, "tied, one tensor of two names") for name, to in aliases.items()]
    for name in given.leaves:
        if name.endswith(COUNTERS):
            spare.append(Dropped(name, "the number of batches seen, which only PyTorch counts"))
    reasons = {
        bundle.path: said
        for bundle in found.source_left
        if None not in (said := [_spare(leaf.name, a, given) for leaf in bundle.leaves])
    }
    if reasons:
        kept = [each for each in bundles_of(a, given, with_aliases=not aliases) if each.path not in reasons]
        found = decide(kept, ours, names, heads, deep)
        spare += [each for said in reasons.values() for each in said if each is not None]
    left = [leaf.name for bundle in found.source_left for leaf in bundle.leaves]
    missing = [
        leaf.name
        for bundle in found.target_left
        for leaf in bundle.leaves
        if not leaf.name.endswith(COUNTERS)
    ]
    if left or missing:
        raise InputError(_misfit(left, missing, given, wanted))
    return found, spare


def _spare(name: str, holder: Any, container: Container) -> Tied | Dropped | None:
    """Why a tensor of `a` needs no counterpart; None if it does."""
    leaf = container.leaves[name]
    shape, dtype = spec(name, leaf)
    torch = framework("torch")
    if torch is not None and isinstance(holder, torch.nn.Module) and name in dict(holder.named_buffers()):
        return Dropped(name, "a buffer, which the model computes")
    if dtype.kind in "biu" or COMPUTED.search(name):
        return Dropped(name, "computed by the model")
    for other, copy in container.leaves.items():
        if other == name:
            return None
        if len(shape) > 1 and tuple(copy.shape) == shape and _same(leaf, copy):
            return Tied(name, other, "tied, a copy")
    return None


def _same(one: Any, other: Any) -> bool:
    """Whether two tensors have equal values; placeholders without values count as different."""
    if is_torch(one) and is_torch(other):
        return bool((one == other).all())
    first, second = np.asarray(one), np.asarray(other)
    return bool(any(first.strides)) and np.array_equal(first, second)


def _misfit(left: list[str], missing: list[str], given: Container, wanted: Container) -> str:
    said = []
    for names, container, here, there in ((left, given, "a", "b"), (missing, wanted, "b", "a")):
        if names:
            shape = tuple(container.leaves[names[0]].shape)
            said.append(f"{len(names)} tensors of {here} no place in {there}, such as {names[0]} {shape}")
    return cut(
        f"draft_layout expects two models with the same layers, but finds for {' and for '.join(said)}"
    )


def _settled(
    decisions: Decisions,
    holders: tuple[Any, Any],
    containers: tuple[Container, Container],
    functions: tuple[Callable[..., Any], Callable[..., Any]] | None,
    inputs: tuple[Any, Any],
) -> Settled:
    runs = [
        runner(holder, container, None if functions is None else functions[place], inputs[place], "ab"[place])
        for place, (holder, container) in enumerate(zip(holders, containers, strict=True))
    ]
    dtypes = [{name: spec(name, leaf).dtype for name, leaf in each.leaves.items()} for each in containers]
    torch = framework("torch")
    is_torch_first = torch is not None and isinstance(holders[0], torch.nn.Module)
    theirs, ours = (_sharing(run, each) for run, each in zip(runs, containers, strict=True))
    return Search(decisions, theirs, ours, dtypes[1], dtypes[0], is_torch_first).settle()


def _sharing(run: Callable[..., Any], container: Container) -> Callable[..., Any]:
    """The run of a model whose tied tensors get one value."""
    groups = tied_names(container.leaves)

    def shared(arrays: Mapping[str, np.ndarray]) -> Any:
        found = dict(arrays)
        for same in groups:
            known = next((found[name] for name in same if name in found), None)
            if known is not None:
                found |= dict.fromkeys(same, known)
        return run(found)

    return shared


def _draft(
    decisions: Decisions,
    spare: Sequence[Tied | Dropped],
    settled: Settled | None,
    containers: tuple[Container, Container],
    name: str,
) -> Draft:
    decisions.axes = Axes()  # with the axes of the chosen options alone
    place = {name: number for number, name in enumerate(containers[0].leaves)}
    table = lines(sorted(decisions.concretes(), key=lambda each: min(place[x] for x in each[0].theirs)))
    inner = _reasons(decisions, settled)
    marks, guesses = {}, []
    for key, (reason, is_settled) in inner.items():
        rules = tuple(
            (line.theirs, line.hub) for line in table if line.key == key or _is_renamed(decisions, key, line)
        )
        if rules:
            guesses.append(Guess(rules, reason, is_settled))
    for line in table:
        said = [
            (r, s) for key, (r, s) in inner.items() if line.key == key or _is_renamed(decisions, key, line)
        ]
        if said:
            open_ones = [reason for reason, is_settled in said if not is_settled]
            mark = f"guess: {'; '.join(open_ones)}" if open_ones else "settled by activations"
            marks[line] = mark
    keyed = [line._replace(key=marks.get(line, "")) for line in table]
    used = {
        axis for line in table for _, value in line.form.arguments for axis in re.findall(r"\w+", str(value))
    }
    sizes = tuple((axis, size) for axis, size in decisions.axes.sizes.items() if axis in used)
    layout = Layout(
        name,
        rules=tuple(line.rule() for line in table),
        tied=tuple(each for each in spare if isinstance(each, Tied)),
        dropped=_numbered([each for each in spare if isinstance(each, Dropped)]),
    )
    needed = layout.needed_axes()
    layout = replace(layout, axes=tuple((axis, size) for axis, size in sizes if axis in needed))
    _check(layout, containers)
    notes = _notes(guesses, settled)
    texts = {mark: mark for mark in marks.values()}
    return Draft(
        layout,
        tuple(guesses),
        None if settled is None else settled.error,
        None if settled is None else settled.agrees,
        python_source(layout, keyed, texts, name.upper(), notes),
        toml_source(layout, keyed, texts, notes),
    )


def _reasons(decisions: Decisions, settled: Settled | None) -> dict[str, tuple[str, bool]]:
    """The reason of each guess, and whether it is settled, by the key of its decision."""
    agrees = settled is not None and settled.agrees
    alike = set() if settled is None else settled.alike
    found = {}
    for key, choice in decisions.choices.items():
        if choice.reason and (len(choice.options) > 1 or settled is None):
            found[key] = _said(choice.reason, choice, agrees, key in alike)
    for key, renaming in decisions.renamings.items():
        names = ", ".join(path.rpartition(".")[2] for path in renaming.groups[0])
        found[key] = _said(f"which layer is which of {names}", None, agrees, key in alike)
    return found


def _said(reason: str, choice: Choice | None, agrees: bool, is_alike: bool) -> tuple[str, bool]:
    if agrees and is_alike:
        return f"{reason}; others give the same outputs", False
    return reason, agrees


def _is_renamed(decisions: Decisions, key: str, line: Line) -> bool:
    """Whether a rule has a layer of a renaming."""
    renaming = decisions.renamings.get(key)
    if renaming is None:
        return False
    endings = {re.sub(r"\d+", "#", path) for group in renaming.groups for path in group}
    hub = re.sub(r"\{n\}|\d+", "#", line.hub)
    names = re.findall(r"\{([^{}]+)\}", hub)
    expanded = [hub] if not names else [hub.replace(f"{{{names[0]}}}", each) for each in names[0].split(",")]
    return any(
        each == path or each.startswith((f"{path}.", f"{path}/")) for each in expanded for path in endings
    )


def _numbered(dropped: Iterable[Dropped]) -> tuple[Dropped, ...]:
    """The entries, with one for all layers."""
    found: dict[tuple[str, str], Dropped] = {}
    for each in dropped:
        name = re.sub(r"\d+", "{n}", each.name, count=1)
        found.setdefault((name, each.reason), Dropped(name, each.reason))
    return tuple(found.values())


def _notes(guesses: Sequence[Guess], settled: Settled | None) -> list[str]:
    open_count = sum(not each.is_settled for each in guesses)
    if settled is None:
        count = f"{open_count} guess" if open_count == 1 else f"{open_count} guesses"
        return [f"{count}, to settle with inputs=." if open_count else "No rule is a guess."]
    if not settled.agrees:
        return [
            "Outputs differ with each table that was tried: the guesses are open, or the models compute different",
            "functions; diagnose finds the difference.",
        ]
    return [
        f"Equal random weights give equal outputs: largest difference {settled.error:.1e} of the largest output."
    ]


def _check(layout: Layout, containers: tuple[Container, Container]) -> None:
    """Raise unless the layout converts the shapes of `a` to the shapes of `b`."""
    given, wanted = ({name: spec(name, leaf) for name, leaf in each.leaves.items()} for each in containers)
    report = Report(layout.name, "plain")
    ghosts = {name: ghost(*each) for name, each in given.items()}
    tied = {each.name for each in layout.tied}
    there = route(
        {n: x for n, x in ghosts.items() if n not in tied}, layout, PLAIN, dict(layout.axes), report
    )
    shapes = {name: item.array.shape for name, item in there.items()}
    aliases = {name for same in tied_names(containers[1].leaves) for name in same}
    wrong = [name for name, shape in shapes.items() if name not in wanted or wanted[name].shape != shape]
    wrong += [
        name for name in wanted if name not in shapes and name not in aliases and not name.endswith(COUNTERS)
    ]
    if report.faults or wrong:
        example = report.faults[0].name if report.faults else wrong[0]
        raise InputError(
            cut(f"draft_layout cannot write a rule for {example}: its names or axes fit no pattern")
        )
