"""Predictions of a masked language model for the masked tokens of a text."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.pretrained.text import calls, kinds
from attention_bridge.pretrained.text.model import TextModel


class Prediction(NamedTuple):
    """A token for a masked position.

    Attributes:
        token: id of the token.
        text: text of the token.
        probability: its probability.
        sequence: the text with this token, other masks included.
    """

    token: int
    text: str
    probability: float
    sequence: str


def fill_mask(model: TextModel, text: str, *, top_k: int = 5) -> list[list[Prediction]]:
    """The most probable tokens for each mask token of a text, most probable first.

    Args:
        model: a masked language model.
        text: text with the tokenizer's mask token, such as `[MASK]`.
        top_k: number of tokens per mask.

    Raises:
        InputError: the model has no masked-language head, or the text has no mask token.
    """
    kinds.check(model.model, "fill-mask", kinds.MASKED, model.directory)
    mask_token, mask_id = model.tokenizer.mask_token, model.tokenizer.id_of("mask_token")
    if mask_token is None or mask_id is None:
        raise InputError(f"the tokenizer of {model.directory} has no mask token")
    encoded = model.tokenizer.encode([text])
    positions = np.flatnonzero(encoded.ids[0] == mask_id)
    if not positions.size:
        raise InputError(f"the text must have the mask token {mask_token}, got {text!r}")
    (scores,) = model.run(calls.logits, encoded)
    ends = set() if positions.size == 1 else _ends(model)
    return [_predictions(model, encoded.ids[0], int(at), scores[0, at], top_k, ends) for at in positions]


def _predictions(
    model: TextModel, ids: np.ndarray, at: int, scores: np.ndarray, top_k: int, ends: set[int | None]
) -> list[Prediction]:
    """The predictions at a position; without `ends`, all special tokens are left out of their sequences."""
    chances = softmax(scores)
    found = []
    for token in np.argsort(-chances, kind="stable")[:top_k]:
        filled = ids.copy()
        filled[at] = token
        shown = [i for i in filled if i not in ends]
        sequence = model.tokenizer.decode(shown, skip_special_tokens=not ends)
        word = model.tokenizer.decode([token], skip_special_tokens=False)
        found.append(Prediction(int(token), word, float(chances[token]), sequence))
    return found


def _ends(model: TextModel) -> set[int | None]:
    """Ids of the special tokens around a text; other masks stay in its sequence."""
    names = ("bos_token", "eos_token", "cls_token", "sep_token", "pad_token")
    return {model.tokenizer.id_of(name) for name in names}


def softmax(scores: np.ndarray) -> np.ndarray:
    """Softmax over the last axis, in float64."""
    powers: np.ndarray = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)
