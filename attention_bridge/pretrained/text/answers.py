"""Extractive question answering: the part of a text that answers a question."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from attention_bridge.errors import InputError
from attention_bridge.pretrained.text import calls, kinds
from attention_bridge.pretrained.text.masked import softmax
from attention_bridge.pretrained.text.model import TextModel

LONGEST = 15  # tokens of an answer, as in transformers


class Answer(NamedTuple):
    """A part of a text.

    Attributes:
        text: the answer.
        start, end: position of its characters in the text.
        probability: product of the probabilities of its first and last token.
    """

    text: str
    start: int
    end: int
    probability: float


def answer(model: TextModel, question: str, text: str) -> Answer:
    """The part of a text that most probably answers a question, of at most 15 tokens.

    Args:
        model: a model for question answering.
        question: the question.
        text: text that holds the answer.

    Raises:
        InputError: the model is not for question answering, or the text has no token.
    """
    kinds.check(model.model, "classify", ("QuestionAnswering",), model.directory)
    (row,) = model.tokenizer.encodings([question], [text], truncate="only_second")
    inside = np.array([number == 1 for number in row.sequence_ids])
    if not inside.any():
        raise InputError("the text must have at least one token after the question, got none")
    first = model.tokenizer.id_of("cls_token")
    kept = inside | (np.array(row.ids) == first)  # an answer at the first token means no answer
    found = model.run(calls.spans, model.tokenizer.padded([row]))
    starts, ends = (np.where(inside, softmax(np.where(kept, x[0], -1e4)), 0.0) for x in found)
    pairs = np.tril(np.triu(np.outer(starts, ends)), LONGEST - 1)
    begin, stop = np.unravel_index(int(pairs.argmax()), pairs.shape)
    at, to = row.offsets[begin][0], row.offsets[stop][1]
    return Answer(text[at:to], at, to, float(pairs[begin, stop]))
