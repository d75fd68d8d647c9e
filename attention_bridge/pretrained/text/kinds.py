"""Kinds of models by the command that runs them, and one sentence for a model of another kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import REFUSALS, InputError
from attention_bridge.pretrained.source import Source

# Classes of models and of task heads: their description, and their command; empty without one.
KINDS = {
    "Encoder": ("an encoder without a task head", "embed"),
    "Decoder": ("a decoder", "generate"),
    "LanguageModel": ("a language model", "generate"),
    "EncoderDecoder": ("an encoder-decoder", "generate"),
    "RelativeEncoderDecoder": ("an encoder-decoder", "generate"),
    "RecurrentSeq2Seq": ("an encoder-decoder", "generate"),
    "SpeechTransformer": ("a speech model, whose input is audio", ""),
    "WaveformEncoder": ("a speech model, whose input is audio", ""),
    "VisionHierarchy": ("an image model", ""),
    "VisionTransformer": ("an image model", ""),
    "ContrastiveModel": ("a model of images and texts", ""),
    "MaskedLanguageHead": ("a masked language model", "fill-mask"),
    "LinearLanguageHead": ("a masked language model", "fill-mask"),
    "LateClassifier": ("a classifier", "classify"),
    "SequenceClassifier": ("a classifier", "classify"),
    "TokenClassifier": ("a token classifier", "classify"),
    "QuestionAnswering": ("a model for question answering", "classify"),
    "EmbeddingHead": ("an embedding model", "embed"),
    "NoHead": ("a model without a head", "embed"),
    "RewardHead": ("a reward model", ""),
}
IMAGES = ("VisionHierarchy", "VisionTransformer")
HIDDEN = ("Encoder", "Decoder", "LanguageModel", "EncoderDecoder", "RelativeEncoderDecoder")
WRITERS = ("Decoder", "LanguageModel", "EncoderDecoder", "RelativeEncoderDecoder")
MASKED = ("MaskedLanguageHead", "LinearLanguageHead")
OF_SEQUENCES = ("SequenceClassifier", "LateClassifier")
CLASSIFIERS = (*OF_SEQUENCES, "TokenClassifier", "QuestionAnswering")
EMBEDDERS = (*HIDDEN, *MASKED, *CLASSIFIERS, "EmbeddingHead", "NoHead")


def kind(model: Any) -> str:
    """The name of a model's class; of a `TaskModel` its head's, unless it takes images."""
    name = type(model).__name__
    if name != "TaskModel":
        is_encoder = name == "LanguageModel" and not getattr(model.config, "is_causal", True)
        return "Encoder" if is_encoder else name
    backbone = type(model.backbone).__name__
    return backbone if backbone in IMAGES else type(model.head).__name__


def backbone(model: Any) -> Any:
    """The model itself, or the backbone of a `TaskModel`."""
    return getattr(model, "backbone", model)


def check(model: Any, command: str, kinds: tuple[str, ...], directory: Path) -> str:
    """The kind of the model.

    Raises:
        InputError: the command does not run this kind of model; the message names the command that does.
    """
    found = kind(model)
    if found not in kinds:
        raise refusal(found, command, kinds, directory)
    return found


def check_configuration(command: str, kinds: tuple[str, ...], directory: Path) -> None:
    """Raise `InputError` if the configuration of a directory describes another kind, before weights are read.

    Other errors are left to `load_pretrained`.
    """
    try:
        with Source.open(directory) as source:
            name = None if source.reading is None else described(source.reading.model)
    except REFUSALS:
        return
    if name in KINDS and name not in kinds:
        raise refusal(name, command, kinds, directory)


def described(model: Part) -> str:
    """The kind of a model that is not built yet, as `kind` of the built one."""
    config = model.arguments["config"].arguments
    if model.name == "TaskModel":
        backbone = config["backbone"].name.removesuffix("Config").removesuffix("Spec")
        return backbone if backbone in IMAGES else config["head"].name
    is_encoder = model.name == "LanguageModel" and not config.get("is_causal", True)
    return "Encoder" if is_encoder else model.name


def refusal(found: str, command: str, kinds: tuple[str, ...], directory: Path) -> InputError:
    """The error for a model that a command does not run."""
    given, right = KINDS.get(found, (f"a {found}", ""))
    expected = " or ".join(dict.fromkeys(KINDS[each][0] for each in kinds))
    if command == "generate":
        expected = "a decoder or an encoder-decoder"
    elif command == "embed":
        expected = "a model of texts"
    hint = f"; use `attention-bridge {right}`" if right and right != command else ""
    return InputError(f"`attention-bridge {command}` needs {expected}, but {directory} holds {given}{hint}")
