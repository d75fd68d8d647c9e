"""Labels of a text, or of each of its tokens, with probabilities."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from attention_bridge.pretrained.text import calls, kinds
from attention_bridge.pretrained.text.masked import softmax
from attention_bridge.pretrained.text.model import TextModel


class Label(NamedTuple):
    """A label and its probability; of a regression, its value."""

    label: str
    probability: float


class TokenLabel(NamedTuple):
    """The most probable label of a token.

    Attributes:
        token: the token, as the tokenizer writes it.
        start, end: position of the token's characters in the text.
        label: the label.
        probability: its probability.
    """

    token: str
    start: int
    end: int
    label: str
    probability: float


def classify(model: TextModel, text: str, pair: str | None = None) -> list[Label]:
    """The labels of a text or of a pair of texts, most probable first.

    Probabilities are a softmax over the classes; with `problem_type="multi_label_classification"` or one class a
    sigmoid each; with `problem_type="regression"` the values are the logits.

    Args:
        model: a sequence classifier.
        text: the text.
        pair: second text, such as the hypothesis of an inference; None for none.

    Raises:
        InputError: the model is no sequence classifier.
    """
    kinds.check(model.model, "classify", kinds.OF_SEQUENCES, model.directory)
    encoded = model.tokenizer.encode([text], None if pair is None else [pair])
    (scores,) = model.run(calls.logits, encoded)
    problem = model.config.get("problem_type")
    if problem == "regression":
        values = scores[0]
    elif problem == "multi_label_classification" or scores.shape[1] == 1:
        values = 1 / (1 + np.exp(-scores[0].astype(np.float64)))
    else:
        values = softmax(scores[0])
    names = labels(model, len(values))
    return [Label(names[i], float(values[i])) for i in np.argsort(-values, kind="stable")]


def label_tokens(model: TextModel, text: str) -> list[TokenLabel]:
    """The most probable label of each token of a text, without the special tokens.

    With one class, such as the replaced tokens of ELECTRA's discriminator, the probability is a sigmoid.

    Raises:
        InputError: the model is no token classifier.
    """
    kinds.check(model.model, "classify", ("TokenClassifier",), model.directory)
    (row,) = model.tokenizer.encodings([text])
    (scores,) = model.run(calls.logits, model.tokenizer.padded([row]))
    chances = 1 / (1 + np.exp(-scores[0])) if scores.shape[2] == 1 else softmax(scores[0])
    names = labels(model, chances.shape[1])
    best = chances.argmax(axis=1)
    return [
        TokenLabel(row.tokens[i], start, end, names[best[i]], float(chances[i, best[i]]))
        for i, (start, end) in enumerate(row.offsets)
        if not row.special_tokens_mask[i]
    ]


def labels(model: TextModel, count: int) -> list[str]:
    """Names of the classes: `id2label` of the configuration, else `LABEL_0` and so on."""
    given = model.config.get("id2label")
    found = given if isinstance(given, dict) else {}
    return [str(found.get(str(i), f"LABEL_{i}")) for i in range(count)]
