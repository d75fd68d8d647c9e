"""The attention layers of a model: their projections, masks, biases and caches, taken from the reference's calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from attention_bridge.doctor.models.attention import attention_mistake, option
from attention_bridge.doctor.models.core import HIDDEN, Given
from attention_bridge.doctor.models.counts import Relation
from attention_bridge.doctor.models.recording import is_additive_mask, is_float, is_mask
from attention_bridge.doctor.models.stages import Stages, floats, tolerance
from attention_bridge.doctor.models.target import Case
from attention_bridge.parity.measure import error
from attention_bridge.weights.twins.naming import meaning

UNIT = 1e-12  # the same array in another shape


def by_attention(stages: Stages, path: str, reference: Any) -> Relation | None:
    """The mistake of an attention layer, by a fit of the computation between its projections."""
    if isinstance(reference, torch.nn.MultiheadAttention):
        return _by_torch_attention(stages, path, reference)
    made = stages.alone(path) if path else None
    roles = {
        meaning(each.rpartition(".")[2]) or "": each
        for each in stages.inside(path)
        if each.startswith(f"{path}.")
    }
    if "out" not in roles and (last := _last(stages, path, roles)) is not None:
        roles["out"] = last
    if made is None or "out" not in roles:
        return None
    theirs = next(iter(made[1].get(stages.paths[roles["out"]], [])), None)
    right = stages.theirs[roles["out"]].arrays()
    if theirs is None or not right or right[0].ndim != 3 or not theirs.arrays():
        return None
    port = theirs.arrays()[0]
    given = floats(stages.theirs[path].arrays())
    embed = given[0].shape[-1] if given else right[0].shape[-1]
    cuts = []
    for query, key, value in _projected(stages, path, roles, reference):
        normed, before = _normed(stages, path, query, key)
        givens = tuple(_givens(stages, path, query, key))
        own, exact = port.astype(np.float64), right[0].astype(np.float64)
        cuts.append(Case(*normed, value, exact, own, givens, embed, before=before))
    bound = tolerance(right[0], right[0].astype(np.float64))
    for number, case in enumerate(cuts):
        if (
            found := attention_mistake(reference, case, bound, [*cuts[:number], *cuts[number + 1 :]])
        ) is not None:
            return found
    return None


def _last(stages: Stages, path: str, roles: Mapping[str, str]) -> str | None:
    """The last matrix that a layer applies, which is its output projection under any name."""
    if "fused" not in roles and not {"query", "key", "value"} <= roles.keys():
        return None
    known = {roles[role] for role in ("fused", "query", "key", "value") if role in roles}
    inside = {*stages.inside(path)} - known
    order = [each for each in stages.theirs if each in inside]
    weight = getattr(stages.couple.torch_module.get_submodule(order[-1]), "weight", None) if order else None
    return order[-1] if weight is not None and weight.ndim == 2 else None


def _by_torch_attention(stages: Stages, path: str, reference: torch.nn.MultiheadAttention) -> Relation | None:
    """The mistake of a layer whose reference is PyTorch's own, with all projections inside."""
    found = stages.pair(path)
    inputs = floats(stages.theirs[path].arrays())[:3]
    if found is None or len(inputs) < 3 or inputs[0].ndim != 3 or not reference.batch_first:
        return None
    own = {
        name: x.detach().double().cpu().numpy() for name, x in reference.named_parameters() if x is not None
    }
    if "in_proj_weight" not in own:
        return None
    size = reference.embed_dim
    biases = np.split(own.get("in_proj_bias", np.zeros(3 * size)), 3)
    parts = [
        x.astype(np.float64) @ weight.T + bias
        for x, weight, bias in zip(inputs, np.split(own["in_proj_weight"], 3), biases, strict=True)
    ]
    name = next(iter(found.right))
    bias = own.get("out_proj.bias", np.zeros(size))
    query, key, value = parts
    case = Case(
        query,
        key,
        value,
        found.right[name],
        found.port[name].astype(np.float64),
        tuple(_givens(stages, path, query, key)),
        size,
        lambda x: x @ own["out_proj.weight"].T + bias,
    )
    return attention_mistake(reference, case, tolerance(found.own[name], found.right[name]))


def _projected(
    stages: Stages, path: str, roles: Mapping[str, str], reference: Any
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """The reference's queries, keys and values, `(batch, length, features)`; a fused result is cut in each order."""

    def output(role: str) -> np.ndarray:
        array = stages.theirs[roles[role]].output
        assert array is not None  # as every submodule of `inside`
        return array.astype(np.float64)

    if {"query", "key", "value"} <= roles.keys():
        yield output("query"), output("key"), output("value")
    elif "fused" in roles and output("fused").shape[-1] % 3 == 0:
        whole = output("fused")
        yield tuple(np.split(whole, 3, -1))  # type: ignore[misc]
        heads = option(reference, "num_heads")
        if heads and whole.shape[-1] % (3 * int(heads)) == 0:
            parts = whole.reshape(*whole.shape[:-1], int(heads), 3, -1)
            yield tuple(parts[..., n, :].reshape(*whole.shape[:-1], -1) for n in range(3))  # type: ignore[misc]


def _normed(
    stages: Stages, path: str, query: np.ndarray, key: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[tuple[str, np.ndarray, np.ndarray], ...]]:
    """Queries and keys as attention takes them, and as they are before the norms of queries and keys."""
    made: dict[str, tuple[str, np.ndarray]] = {}
    for other, record in stages.theirs.items():
        output, given = record.output, floats(record.arrays())[:1]
        if not other.startswith(f"{path}.") or not stages.is_vector(other):
            continue
        if output is None or not given or output.shape != given[0].shape:
            continue
        for role, x in (("query", query), ("key", key)):
            for before, after in zip(_flat(given[0], x), _flat(output, x), strict=True):
                if error(before.astype(np.float64), x) <= UNIT:
                    made[role] = (f"`{other.rpartition('.')[2]}`", after.astype(np.float64))
    if not made:
        return (query, key), ()
    new_query, new_key = (
        made[role][1] if role in made else x for role, x in (("query", query), ("key", key))
    )
    before_norms = [(" and ".join(name for name, _ in made.values()), query, key)]
    if len(made) == 2:
        before_norms += [(made["query"][0], query, new_key), (made["key"][0], new_query, key)]
    return (new_query, new_key), tuple(before_norms)


def _flat(x: np.ndarray, like: np.ndarray) -> list[np.ndarray]:
    """Heads as features, `(batch, length, features)`, in each order of the axes that gives this shape."""
    if x.shape == like.shape:
        return [x]
    if x.ndim != 4 or x.size != like.size:
        return []
    turned = x.swapaxes(1, 2)
    return [each.reshape(like.shape) for each in (x, turned) if each.shape[:2] == like.shape[:2]]


def _givens(stages: Stages, path: str, query: np.ndarray, key: np.ndarray) -> Iterator[Given]:
    """Each mask and each bias among the inputs of the layer and of the model, or none, with the KV cache."""
    arrays = stages.theirs[path].nested()
    past = _past(arrays, key)
    sizes = (len(query), query.shape[1], key.shape[1] + (0 if past is None else past[0].shape[2]))
    extra = [x for x in stages.calls.inputs.values() if isinstance(x, np.ndarray)]
    masks: list[np.ndarray | None] = [None, *_masks((*arrays, *extra), sizes)]
    biases: list[np.ndarray | None] = [None]
    for x in arrays:
        fits = is_float(x) and x.ndim in (3, 4) and x.shape[-2:] == sizes[1:] and not is_additive_mask(x)
        if fits and (x.ndim == 3 or len(x) in (1, sizes[0])):
            exact = x.astype(np.float64)
            biases.append(np.where(exact > HIDDEN, exact, 0))
            if (exact <= HIDDEN).any():
                masks.append(np.where(exact > HIDDEN, 0, exact))
    for mask in masks:
        for bias in biases:
            yield Given(mask, bias, past)


def _past(arrays: list[np.ndarray], key: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Cached keys and values, `(batch, kv_heads, length, head_dim)`; None if the layer is given none."""
    found = [x for x in arrays if is_float(x) and x.ndim == 4 and len(x) == len(key)]
    for one, other in pairwise(found):
        if one.shape != other.shape:
            continue
        if one.shape[1] * one.shape[3] == key.shape[-1]:
            return one.astype(np.float64), other.astype(np.float64)
        if one.shape[2] * one.shape[3] == key.shape[-1]:
            return one.swapaxes(1, 2).astype(np.float64), other.swapaxes(1, 2).astype(np.float64)
    return None


def _masks(arrays: Iterable[np.ndarray], sizes: tuple[int, int, int]) -> Iterator[np.ndarray]:
    """The masks among arrays, as masks of the scores `(batch, 1, query|1, key)`, additive ones in float64."""
    batch, _, length = sizes
    for x in arrays:
        if not is_mask(x) and not is_additive_mask(x):
            continue
        kind = bool if is_mask(x) else np.float64
        if x.shape == (batch, length):
            yield x.astype(kind)[:, None, None, :]
        elif x.ndim == 4 and x.shape[-1] == length:
            yield x.astype(kind)
