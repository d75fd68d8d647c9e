"""`draft_layout`: a table of rules between two models of one's own, proposed from their tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from attention_bridge.errors import InputError, cut
from attention_bridge.weights.containers import Container, open_container, tied_names
from attention_bridge.weights.draft.bundles import COUNTERS, bundles_of
from attention_bridge.weights.draft.choices import Decisions
from attention_bridge.weights.draft.deciding import decide
from attention_bridge.weights.draft.heads import possible_heads
from attention_bridge.weights.draft.links import Link
from attention_bridge.weights.draft.proposal import Draft, written
from attention_bridge.weights.draft.running import runner
from attention_bridge.weights.draft.settling import Search, Settled
from attention_bridge.weights.layout import Dropped, Tied
from attention_bridge.weights.leaves import framework, is_torch, spec

COMPUTED = re.compile(
    r"(^|[./])(inv_freq|masked_bias|attn_mask|causal_mask|mask|tril|position_ids|freqs|freqs_cis|cos|sin|cos_cached|"
    r"sin_cached|num_batches_tracked)$"
)
NAME = re.compile(r"[A-Za-z_]\w*")


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
    return written(decisions, spare, settled, (given, wanted), name)


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
