"""Kinds of models by the command that runs them, and one sentence for a model of another kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attention_bridge.errors import InputError

# Classes of models and of task heads: their description, and their command; empty without one.
KINDS = {
    "Encoder": ("an encoder without a task head", "embed"),
    "Decoder": ("a decoder", "generate"),
    "LanguageModel": ("a language model", "generate"),
    "EncoderDecoder": ("an encoder-decoder", "generate"),
    "RelativeEncoderDecoder": ("an encoder-decoder", "generate"),
    "RecurrentSeq2Seq": ("an encoder-decoder", "generate"),
    "SpeechTransformer": ("a speech model, whose input is audio", ""),
    "VisionTransformer": ("an image model", ""),
    "ContrastiveModel": ("a model of images and texts", ""),
    "MaskedLanguageHead": ("a masked language model", "fill-mask"),
    "SequenceClassifier": ("a classifier", "classify"),
    "TokenClassifier": ("a token classifier", "classify"),
    "QuestionAnswering": ("a model for question answering", "classify"),
    "EmbeddingHead": ("an embedding model", "embed"),
    "RewardHead": ("a reward model", ""),
}
HIDDEN = ("Encoder", "Decoder", "LanguageModel", "EncoderDecoder", "RelativeEncoderDecoder")
WRITERS = ("Decoder", "LanguageModel", "EncoderDecoder", "RelativeEncoderDecoder")
CLASSIFIERS = ("SequenceClassifier", "TokenClassifier", "QuestionAnswering")


def kind(model: Any) -> str:
    """The name of a model's class; of a `TaskModel` its head's, unless it takes images."""
    name = type(model).__name__
    if name != "TaskModel":
        is_encoder = name == "LanguageModel" and not getattr(model.config, "is_causal", True)
        return "Encoder" if is_encoder else name
    backbone = type(model.backbone).__name__
    return backbone if backbone == "VisionTransformer" else type(model.head).__name__


def backbone(model: Any) -> Any:
    """The model itself, or the backbone of a `TaskModel`."""
    return getattr(model, "backbone", model)


def check(model: Any, command: str, kinds: tuple[str, ...], directory: Path) -> str:
    """The kind of the model.

    Raises:
        InputError: the command does not run this kind of model; the message names the command that does.
    """
    found = kind(model)
    if found in kinds:
        return found
    what, right = KINDS.get(found, (f"a {found}", ""))
    expected = " or ".join(dict.fromkeys(KINDS[each][0] for each in kinds))
    hint = f"; use `attention-bridge {right}`" if right and right != command else ""
    if command == "generate" and found == "Encoder":
        expected = "a decoder or an encoder-decoder"
    raise InputError(f"`attention-bridge {command}` needs {expected}, but {directory} holds {what}{hint}")
