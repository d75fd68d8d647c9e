"""Proof of a text model: hidden states, attention maps, padding on either side, cached generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attention_bridge.pretrained import load_pretrained
from parity_tests.helpers import families
from parity_tests.helpers.family_cases.case import LENGTH, Case
from parity_tests.helpers.family_proof import ARRAYS, Deviation, Proof, float64
from parity_tests.helpers.program import program, read_on
from parity_tests.helpers.sequence_proof import SequenceProof

WITHOUT_ATTENTION = ("mamba", "mamba2")  # transformers gives other hidden states of these models
PREFILL = 4  # tokens that a cached generation reads at once


def proof(case: Case, directory: Path) -> Proof:
    """The proof of a model of any kind."""
    kinds: dict[str, type[Proof]] = {"encoder": TextProof, "language": TextProof, "sequence": SequenceProof}
    return kinds.get(case.kind, Proof)(case, directory)


class TextProof(Proof):
    """Proof of an encoder or decoder of text; the reference reads each sequence alone, without padding."""

    def __init__(self, case: Case, directory: Path):
        self.read(case, side="right")
        super().__init__(case, directory)

    def read(self, case: Case, side: str) -> None:
        """Choose the side of the padding."""
        given = families.inputs(case)
        self.tokens, self.there = given["tokens"].copy(), given["there"]
        if side == "left":
            self.there = self.there[:, ::-1].copy()
            padding = self.tokens[1, -1]
            shifted = np.roll(self.tokens[1], LENGTH - self.there[1].sum())
            self.tokens[1] = np.where(self.there[1], shifted, padding)
        self.positions = np.maximum(np.cumsum(self.there, 1) - 1, 0).astype(np.int32)

    def deviations(self, framework: str) -> Iterator[Deviation]:
        """The deviations of a mirror's model in float32: outputs, hidden states, maps, cached generation."""
        model, array = load_pretrained(self.directory, framework), ARRAYS[framework]
        for side in ("right", "left"):
            if side == "left" and getattr(getattr(model, "backbone", model), "has_fixed_positions", False):
                continue
            self.read(self.case, side)
            with torch.no_grad():
                expected = float64(self.theirs(self.built))
            found = self.found(model, array)
            assert found.keys() == expected.keys(), (sorted(found), sorted(expected))
            for name, x in expected.items():
                yield self.compared(name, found[name], x)._replace(name=f"{side} padding, {name}")
            if self.case.kind == "language":
                each = self.compared("output", self._stepwise(model, array), expected["output"])
                yield each._replace(name=f"{side} padding, cached")
        self.read(self.case, "right")

    def theirs(self, model: Any) -> dict[str, Any]:
        """The results for each sequence alone, at the places of its tokens, zero elsewhere."""
        rows = [
            self._row(model, tokens[there]) for tokens, there in zip(self.tokens, self.there, strict=True)
        ]
        return {
            name: torch.stack(
                [
                    _placed(row[name][0], there, is_map=name.startswith("map"))
                    for row, there in zip(rows, self.there, strict=True)
                ]
            )
            for name in rows[0]
        }

    def ours(self, model: Any, array: Callable[[Any], Any]) -> dict[str, Any]:
        """The results for the batch, zero at padding."""
        options = {"need_weights": True, "need_hidden_states": True}
        # A decoder without an output head whose embeddings are tied loads with logits.
        call = model.read if self.case.kind == "encoder" and hasattr(model, "read") else model
        found = call(array(self.tokens), array(self.there), positions=array(self.positions), **options)
        found = found._replace(attentions=_of_attention(model, found.attentions))
        there = array(self.there)
        both = there[:, None, :, None] & there[:, None, None]
        return {
            name: x * (both if name.startswith("map") else there[(..., *[None] * (x.ndim - 2))])
            for name, x in _results(found, has_maps=self.case.has_maps).items()
        }

    def _row(self, model: Any, tokens: np.ndarray) -> dict[str, Any]:
        _forget_lengths(model)
        given = torch.from_numpy(tokens).long()[None]
        options = {"output_hidden_states": True, "output_attentions": True}
        if model.config.model_type in WITHOUT_ATTENTION:
            del options["output_attentions"]
        found = model(given, attention_mask=torch.ones_like(given), **options)
        if model.config.model_type in WITHOUT_ATTENTION:  # the outputs of all layers, then the final norm's
            found.hidden_states = (model.get_input_embeddings()(given), *found.hidden_states[:-1])
        if (
            found.hidden_states is not None and found.hidden_states[0].ndim == 4
        ):  # parts of a stream come first
            found.hidden_states = tuple(x.permute(1, 2, 0, 3) for x in found.hidden_states)
        return _results(found, has_maps=self.case.has_maps)

    def _stepwise(self, model: Any, array: Callable[[Any], Any]) -> np.ndarray:
        """Logits of a cached generation: some tokens at once, then one by one."""
        caches, parts, step = model.start(LENGTH), [], program(model, read_on)
        for start, stop in [(0, PREFILL), *((n, n + 1) for n in range(PREFILL, LENGTH))]:
            there = self.there[:, None, None, start:stop]
            given = self.tokens[:, start:stop], there, self.positions[:, start:stop]
            logits, caches = step(*map(array, given), caches)
            parts.append(float64({"x": logits})["x"])
        return np.where(self.there[..., None], np.concatenate(parts, 1), 0.0)


def _of_attention(model: Any, maps: Any) -> Any:
    """The maps of attention layers; transformers has none of recurrent layers."""
    if maps is None:
        return None
    layers = getattr(model, "backbone", model).layers
    given = [layer for layer in layers if getattr(layer, "attention", None) is not None]
    if not any(map(_is_recurrent, given)):
        return maps
    return tuple(x for x, layer in zip(maps, given, strict=True) if not _is_recurrent(layer))


def _is_recurrent(layer: Any) -> bool:
    """Whether a layer's mixer is a recurrent one without attention beside it."""
    return "state" in getattr(layer, "takes", ()) and not hasattr(layer.attention, "attention_mixer")


def _forget_lengths(model: Any) -> None:
    """Reset the rotary frequencies that the reference has changed for longer texts."""
    for each in model.modules():
        if getattr(each, "rope_type", None) == "dynamic":
            each.max_seq_len_cached = each.original_max_seq_len
            each.inv_freq = each.original_inv_freq.clone()


def _results(found: Any, *, has_maps: bool) -> dict[str, Any]:
    """Outputs by name; the last hidden state is left out, as some models give it before the norm, some after it."""
    results = {"output": found.logits if hasattr(found, "logits") else found.last_hidden_state}
    results |= {f"state {n}": x for n, x in enumerate((found.hidden_states or ())[:-1])}
    maps = (getattr(found, "attentions", None) if has_maps else None) or ()
    return results | {f"map {n}": x for n, x in enumerate(maps) if x is not None}


def _placed(x: torch.Tensor, there: np.ndarray, *, is_map: bool) -> torch.Tensor:
    """States `(length, ...)` or maps `(heads, query, key)` of real tokens among zeros, at the places of the tokens."""
    real = torch.from_numpy(np.flatnonzero(there))
    for axis in (1, 2) if is_map else (0,):
        shape = [*x.shape[:axis], len(there), *x.shape[axis + 1 :]]
        x = torch.zeros(shape, dtype=x.dtype).index_copy(axis, real, x)
    return x
