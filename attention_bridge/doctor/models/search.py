"""The search: weights first, then the submodules that differ on equal inputs, each with a name for its mistake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from flax import nnx

from attention_bridge.doctor.models.attention_layers import by_attention
from attention_bridge.doctor.models.attributes import options, set_to
from attention_bridge.doctor.models.counts import Relation
from attention_bridge.doctor.models.finding import ModelDiagnosis, ModelFinding
from attention_bridge.doctor.models.norms import norm_mistake
from attention_bridge.doctor.models.relations import relation
from attention_bridge.doctor.models.single import in_float32, is_coarse
from attention_bridge.doctor.models.stages import INSIDE, Stages, floats, tolerance
from attention_bridge.doctor.models.values import names_by_values
from attention_bridge.doctor.models.weight_faults import merged, weight_findings
from attention_bridge.doctor.models.weights import repaired, weights
from attention_bridge.errors import InputError
from attention_bridge.parity.calls import Call, Calls, calls
from attention_bridge.parity.comparison import pinned_precision
from attention_bridge.parity.couple import Couple
from attention_bridge.parity.matching import Outputs
from attention_bridge.parity.measure import error


def diagnose_models(
    torch_model: torch.nn.Module,
    jax_model: nnx.Module,
    *inputs: Any,
    names: Mapping[str, str] | None = None,
    outputs: Outputs = None,
    torch_call: Call | None = None,
    jax_call: Call | None = None,
    **kwargs: Any,
) -> ModelDiagnosis:
    """Diagnose why a JAX model does not compute the PyTorch model that it was ported from.

    The layers of both are aligned. Weights are compared first; then each submodule of the port, with the right weights,
    gets the inputs that the reference's submodule had, so that one mistake does not hide the next.

    Args:
        torch_model: the reference.
        jax_model: the port, a Flax NNX model.
        inputs: positional arguments of both calls, as in `attention_bridge.parity.compare`.
        names: names of the reference's modules or paths, and the port's names for them; None for none.
        outputs: names of the reference's outputs and the port's names for them, as in `compare`.
        torch_call: function of the PyTorch model and the inputs that calls it; None calls the model itself.
        jax_call: function of the JAX model and the inputs that calls it; None calls the model itself.
        kwargs: keyword arguments of both calls.

    Returns:
        The diagnosis; its `verdict` is one sentence.

    Raises:
        InputError: the models are of other kinds, or do not take the inputs.
    """
    if not isinstance(jax_model, nnx.Module):
        raise InputError(f"the port must be a Flax NNX module, got {type(jax_model).__name__}")
    couple = _coupled(Couple(torch_model, jax_model, None, names, outputs))
    called = calls(torch_model, inputs, kwargs, torch_call, jax_call)
    with pinned_precision(), torch.no_grad():
        stages = Stages(couple, called, jax_model)
        far, bound = stages.outputs()
        held = merged(weight_findings(weights(couple), aligned=far > bound))
        coarse = is_coarse(couple, called)
        if held and far <= bound and _agree(couple, called, coarse):
            # other weights that compute the same, such as a scale that is folded into them, are no mistake
            held = [each for each in held if each.rounded]
        random = _random(stages)
        findings = [*random, *held]
        if findings or coarse or far > bound:
            stages = _with_weights(*(in_float32(couple, called) if coarse else (couple, called)))
        is_examined = stages.jax_module is not jax_model
        named = _named(stages, stages.wrong() if is_examined else {})
        named = _of_turns(stages, named) if is_examined else named
        if coarse and far <= bound:  # equal in 16 bits: only mistakes with a name count
            named = [each for each in named if each.is_explained]
        # a random submodule makes the submodules around it differ
        noisy = {place for each in random for place in _around(each.place)}
        findings += [each for each in named if each.is_explained or each.place not in noisy]
        left, _ = stages.outputs()
    if not findings:
        return ModelDiagnosis("healthy" if far <= bound else "unexplained", far, bound, (), left)
    order = {path: number for number, path in enumerate(stages.theirs)}
    findings.sort(
        key=lambda each: min((order[p] for p in _around(each.place) if p in order), default=len(order))
    )
    findings = _grouped(findings)
    status = "diagnosed" if all(each.is_explained for each in findings) else "unexplained"
    return ModelDiagnosis(status, far, bound, tuple(findings), left)


def _grouped(findings: list[ModelFinding]) -> list[ModelFinding]:
    """One finding for the same mistake in several places, which is named where it is innermost.

    A part of a layer whose mistake has a name is not listed beside it without one.
    """
    explained = [each.place for each in findings if each.is_explained]
    kept = [
        each
        for each in findings
        if (each.is_explained or not any(each.place.startswith(f"{place}.") for place in explained))
        and not any(
            other.place.startswith(f"{each.place}.") and other.mistake == each.mistake for other in findings
        )
    ]
    groups: dict[tuple[str, str], list[ModelFinding]] = {}
    for number, each in enumerate(kept):
        groups.setdefault((each.mistake, each.cure) if each.is_explained else ("", str(number)), []).append(
            each
        )
    return [
        replace(same[0], also=tuple(each.place for each in same[1:]), error=max(each.error for each in same))
        for same in groups.values()
    ]


def _coupled(couple: Couple) -> Couple:
    """The couple with the names of layers that hold the same values, where layers are aligned without `names`."""
    if couple.names or not couple.is_own:
        return couple
    return replace(couple, names=names_by_values(couple.torch_module, couple.jax_module))


def _with_weights(couple: Couple, called: Calls) -> Stages:
    """The couple with the reference's weights in the port."""
    return Stages(couple, called, repaired(couple))


def _agree(couple: Couple, called: Calls, coarse: bool) -> bool:
    """Whether the outputs agree; of models in 16 bits, also in float32."""
    couple, called = in_float32(couple, called) if coarse else (couple, called)
    far, bound = Stages(couple, called, couple.jax_module).outputs()
    return far <= bound


def _around(place: str) -> list[str]:
    parts = place.split(".")
    return [".".join(parts[: count + 1]) for count in range(len(parts))][::-1]


def _random(stages: Stages) -> list[ModelFinding]:
    """Whether a model gives other outputs each time."""
    for what, first, again in (
        ("port", stages.ours, Stages(stages.couple, stages.calls, stages.jax_module).ours),
        ("reference", stages.theirs, Stages(stages.couple, stages.calls, stages.jax_module).theirs),
    ):
        places = {other: path for path, other in stages.paths.items()} if what == "port" else {}
        for path in first:
            one, other = first[path].outputs, again.get(path, first[path]).outputs
            if path and any(name in other and _differ(x, other[name]) for name, x in one.items()):
                place = next((places[each] for each in _around(path) if each in places), path)
                return [
                    ModelFinding(
                        place,
                        "gives other outputs each time: dropout is on"
                        if what == "port"
                        else "cannot be compared: the reference gives other outputs each time, its dropout is on",
                        "call eval() on both models",
                        1.0,
                    )
                ]
    return []


def _differ(x: np.ndarray, other: np.ndarray) -> bool:
    """Whether two arrays differ where one of them is a number."""
    if x.dtype.kind in "biu":
        return not np.array_equal(x, other)
    return not np.array_equal(x.astype(np.float64), other.astype(np.float64), equal_nan=True)


def _quiet_options(stages: Stages) -> list[ModelFinding]:
    """Options of layers that differ although the outputs agree, such as an eps of a norm."""
    found = []
    for path, other in stages.paths.items():
        reference = stages.couple.torch_module.get_submodule(path)
        if [*reference.children()]:
            continue
        for each in options(reference, stages.parts[other]):
            if each.path in ("eps", "epsilon", "variance_epsilon"):
                found.append(ModelFinding(path, each.mistake, each.cure))
    return found


def _of_turns(stages: Stages, found: list[ModelFinding]) -> list[ModelFinding]:
    """The mistakes of the first calls of the submodules, and of later calls, such as decode steps.

    A place has one finding: of its first call, or of a later one if only that has a name.
    """
    made = {each.place: each for each in found}
    for turn in stages.later_turns():
        later = replace(stages, turn=turn, free={})
        for each in _named(later, later.wrong()):
            if each.place not in made or (each.is_explained and not made[each.place].is_explained):
                made[each.place] = each
    return [*made.values()]


def _named(stages: Stages, wrong: Mapping[str, float]) -> list[ModelFinding]:
    """Name the mistake of each submodule that differs, and the options that differ beside them."""
    findings = [replace(_mistake(stages, path), error=far) for path, far in wrong.items()]
    quiet = [each for each in _quiet_options(stages) if each.place not in wrong]
    return [*findings, *quiet]


def _mistake(stages: Stages, path: str) -> ModelFinding:
    """The mistake of one submodule whose inner submodules are right."""
    place = path or "the model"
    reference = stages.couple.torch_module.get_submodule(path)
    other = stages.paths.get(path, "")
    port = stages.parts[other]
    for found in (
        _by_options(stages, path, reference, port),
        _by_norm(stages, path, reference),
        _by_flow(stages, path),
        by_attention(stages, path, reference),
    ):
        if found:
            return ModelFinding(place, *found)
    return ModelFinding(place, "")


def _by_options(stages: Stages, path: str, reference: Any, port: Any) -> Relation | None:
    """The options with which the submodule is right once they have the reference's values."""
    chosen = options(reference, port)
    if not chosen:
        return None

    def is_right(trial: list[Any]) -> bool:
        stages.forget()
        with set_to(trial):
            found = stages.deviation(path)
        stages.forget()
        return found is not None and found[0] <= found[1]

    for each in chosen:
        if is_right([each]):
            return Relation(each.mistake, each.cure)
    if len(chosen) > 1 and is_right(chosen):
        needed = [*chosen]
        for each in chosen:
            fewer = [other for other in needed if other is not each]
            if fewer and is_right(fewer):
                needed = fewer
        return Relation(
            " and ".join(each.mistake for each in needed), ", and ".join(each.cure for each in needed)
        )
    return None


def _by_flow(stages: Stages, path: str) -> Relation | None:
    """The first inner submodule that gets another input, or the output, and how it follows from the right one."""
    prefix = f"{path}." if path else ""
    known = _known(stages, path, prefix)
    for each in stages.entries(path):
        if each.error > each.bound:
            name = each.path.removeprefix(prefix)
            others = {said: x for said, x in known.items() if said != f"the input of `{name}`"}
            found = relation(each.port, each.right, each.bound, others)
            if found is None:
                return None
            if each.right.dtype.kind in "biu":
                return Relation(f"{found.mistake} before `{name}`", found.cure)
            late = found.mistake.startswith("adds ") and "norm" in name
            late = late and _comes_later(stages, path, each.path, found.mistake)
            after = ": the norm is after the residual" if late else ""
            return Relation(f"{found.mistake} before `{name}`{after}", found.cure)
    found_pair = stages.pair(path)
    if found_pair is None:
        return None
    for name, array in found_pair.right.items():
        bound = tolerance(found_pair.own[name], array)
        if error(found_pair.port[name].astype(np.float64), array) > bound:
            found = relation(found_pair.port[name], array, bound, known)
            if found is None:
                found = _other_matrix(stages, path, found_pair.port[name], bound, known)
            if found is not None:
                return Relation(f"{found.mistake} at the end", found.cure) if stages.inside(path) else found
    return None


def _other_matrix(
    stages: Stages, path: str, port: np.ndarray, bound: float, known: Mapping[str, np.ndarray]
) -> Relation | None:
    """A matrix of another submodule in the place of the right one, such as the embeddings in the place of a head."""
    matrices = {
        name.removesuffix(".weight"): x.detach().cpu().numpy()
        for name, x in stages.exact.get_submodule(path).named_parameters()
        if x.ndim == 2 and name.endswith(".weight") and len(x) == port.shape[-1]
    }
    for said, x in sorted(known.items(), key=lambda each: not each[0].startswith("the input of `")):
        for name, matrix in matrices.items():
            if x.shape[:-1] != port.shape[:-1] or x.shape[-1] != matrix.shape[1]:
                continue
            if error(port.astype(np.float64), x.astype(np.float64) @ matrix.T) <= INSIDE * bound:
                wanted = said.removeprefix("the input of ")
                of = f"instead of the matrix of {wanted}" if wanted != said else f"and {said}"
                return Relation(
                    f"multiplies by the matrix of `{name}` {of}", "use the reference's own matrix"
                )
    return None


def _comes_later(stages: Stages, path: str, norm: str, said: str) -> bool:
    """Whether a mistake names the output of a submodule that the reference calls only after a norm."""
    order = [*stages.theirs]
    prefix = f"{path}." if path else ""
    return any(
        f"the output of `{each.removeprefix(prefix)}`" in said and order.index(each) > order.index(norm)
        for each in order
        if each.startswith(prefix) and each != path
    )


def _known(stages: Stages, path: str, prefix: str) -> dict[str, np.ndarray]:
    """The arrays of the reference within a submodule, in words."""
    known: dict[str, np.ndarray] = {}
    for number, array in enumerate(floats(stages.theirs[path].arrays())):
        known[f"the input{f' {number}' if number else ''} of the layer"] = array
    for name, each in stages.theirs.items():
        if name == path or not name.startswith(prefix):
            continue
        short = name.removeprefix(prefix)
        for field, array in each.outputs.items():
            if array.dtype.kind == "f" or array.dtype.name == "bfloat16":
                known[f"the output of `{short}`" if field == "output" else f"{field} of `{short}`"] = array
        for array in floats(each.arrays())[:1]:
            known[f"the input of `{short}`"] = array
    return known


def _by_norm(stages: Stages, path: str, reference: Any) -> Relation | None:
    """The mistake of a norm, by a fit of its equation to both outputs."""
    found = stages.pair(path) if path else None
    given = floats(stages.theirs[path].arrays())
    if found is None or not given or [*reference.children()]:
        return None
    name = next(iter(found.right))
    own = {key: x.detach().double().cpu().numpy() for key, x in reference.named_parameters(recurse=False)}
    return norm_mistake(
        given[0].astype(np.float64),
        own,
        found.port[name].astype(np.float64),
        found.right[name],
        tolerance(found.own[name], found.right[name]),
    )
