"""Proof of an encoder-decoder of text: attention maps, padding on either side, cached generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from attention_bridge.pretrained import load_pretrained
from parity_tests.helpers import families
from parity_tests.helpers.family_proof import ARRAYS, Deviation, Proof, float64
from parity_tests.helpers.program import program, write_on

PREFILL = 2  # target tokens that a cached generation reads at once


class SequenceProof(Proof):
    """Proof of an encoder-decoder, whose source has padding on the right or on the left."""

    def deviations(self, framework: str) -> Iterator[Deviation]:
        """The deviations of a mirror's model in float32: outputs, maps, cached generation."""
        model, array = load_pretrained(self.directory, framework), ARRAYS[framework]
        for side in ("right", "left"):
            given = self._given(side)
            with torch.no_grad():
                expected = float64(self._theirs(given))
            found = float64(program(model, lambda model, given=given: self._ours(model, array, given))())
            assert found.keys() >= expected.keys(), (sorted(found), sorted(expected))  # T5 gives no maps
            for name, x in expected.items():
                yield self.compared(name, found[name], x)._replace(name=f"{side} padding, {name}")
            stepwise = float64({"output": self._stepwise(model, array, given)})["output"]
            yield self.compared("output", stepwise, expected["output"])._replace(
                name=f"{side} padding, cached"
            )

    def _given(self, side: str) -> dict[str, np.ndarray]:
        given = families.inputs(self.case)
        if side == "right":
            return given
        return {**given, "tokens": given["tokens"][:, ::-1].copy(), "there": given["there"][:, ::-1].copy()}

    def _theirs(self, given: dict[str, np.ndarray]) -> dict[str, Any]:
        found = self.built(
            torch.from_numpy(given["tokens"]).long(),
            attention_mask=torch.from_numpy(given["there"]).long(),
            decoder_input_ids=torch.from_numpy(given["target"]).long(),
            output_attentions=True,
        )
        maps = (found.encoder_attentions, found.decoder_attentions, found.cross_attentions)
        return _results(found.logits, *maps)

    def _ours(self, model: Any, array: Callable[[Any], Any], given: dict[str, np.ndarray]) -> dict[str, Any]:
        source, target, there = (array(given[name]) for name in ("tokens", "target", "there"))
        found = model(source, target, there, need_weights=True)
        maps = (found.encoder_weights, found.self_weights, found.cross_weights)
        return _results(found.logits, *maps)

    def _stepwise(self, model: Any, array: Callable[[Any], Any], given: dict[str, np.ndarray]) -> Any:
        """Logits of a cached generation: some tokens at once, then one by one."""
        target, there = given["target"], array(given["there"])
        memory = program(model, _encode)(array(given["tokens"]), there)
        length = target.shape[1]
        caches, parts, step = model.start(length), [], program(model, write_on)
        for start, stop in [(0, PREFILL), *((n, n + 1) for n in range(PREFILL, length))]:
            logits, caches = step(array(target[:, start:stop]), memory, there, caches)
            parts.append(float64({"x": logits})["x"])
        return np.concatenate(parts, 1)


def _encode(model: Any, tokens: Any, there: Any) -> Any:
    return model.encode(tokens, there).output


def _results(logits: Any, *maps: Any) -> dict[str, Any]:
    """Outputs and the attention maps of the encoder, the decoder, and between them, by name."""
    named = zip(("encoder", "decoder", "cross"), maps, strict=True)
    return {"output": logits} | {f"{kind} map {n}": x for kind, layers in named for n, x in enumerate(layers)}
