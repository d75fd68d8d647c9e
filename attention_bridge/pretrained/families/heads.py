"""Task heads of checkpoints: their tensors in the file, and the task heads of the mirrors that compute with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Tied
from attention_bridge.weights.rule import Rule

# Tasks, by the names of Hugging Face's pipelines.
FEATURES = "feature-extraction"
GENERATION = "text-generation"
IMAGES = "image-classification"
MASKED = "fill-mask"
QUESTIONS = "question-answering"
SEQUENCES = "text-classification"
SOUNDS = "audio-classification"
SPEECH = "automatic-speech-recognition"
TOKENS = "token-classification"
OUTPUTS = (
    "head.decoder.weight",
    "head.decoder.kernel",
)  # of a head with an output layer of its own, in the mirrors
TASKS = (FEATURES, MASKED, IMAGES, QUESTIONS, SEQUENCES, GENERATION, TOKENS, SPEECH, SOUNDS)


@dataclass(frozen=True)
class Head:
    """A task head of a family's checkpoints.

    Attributes:
        task: one of `TASKS`.
        classes: ends of the names of the classes that write it, such as `ForMaskedLM`.
        rules: rules from its tensors to the tensors of the mirrors' head, below `head`.
        tensors: names of all its tensors, in the spelling of the family's layout.
        part: function of the configuration and the tensors that describes the mirrors' head.
        absent: names of tensors that a checkpoint with this head does not have.
        decoder: weight of an output layer that repeats the token embedding, unless its values differ; None for none.
        bias: bias of that layer, which repeats another one unless its values differ; None for none.
        backbone: fields of the backbone's configuration that the reference implementation has with this head.
    """

    task: str
    classes: tuple[str, ...]
    rules: tuple[Rule, ...]
    tensors: tuple[str, ...]
    part: Callable[[Fields, Tensors], Part]
    absent: tuple[str, ...] = ()
    decoder: Tied | None = None
    bias: Tied | None = None
    backbone: Mapping[str, Any] = field(default_factory=dict)
    own: frozenset[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        moves = [move for rule in self.rules for move in rule.to_hub]
        targets = (
            targets
            for name in self.tensors
            for move in moves
            for _, targets in [move.match(name) or ([], [])]
        )
        object.__setattr__(self, "own", frozenset(name for names in targets for name in names))

    def is_in(self, tensors: Tensors) -> bool:
        """Whether a checkpoint has this head."""
        return all(name in tensors for name in self.tensors) and not any(
            name in tensors for name in self.absent
        )

    def is_in_mirror(self, names: frozenset[str]) -> bool:
        """Whether the tensors of a `TaskModel`, in the canonical spelling, have this head."""
        return names - {"head.decoder.weight"} == self.own


Options = Callable[[Fields], dict[str, Any]]


@dataclass(frozen=True)
class Hidden:
    """The hidden layer of a head, before its last linear layer.

    Attributes:
        layer: name of the linear layer.
        activation: activation after it; None for the configuration's `hidden_act`.
        norm: name of a norm after the activation, without a bias; the layer then has no bias either. None for no norm.
        options: function of the configuration that returns further arguments of the mirrors' head; None for none.
    """

    layer: str
    activation: str | None = None
    norm: str | None = None
    options: Options | None = None

    def layers(self) -> dict[str, str]:
        """The names of its layers in the file, and in the mirrors' head."""
        return {self.layer: "hidden_proj"} | ({} if self.norm is None else {self.norm: "hidden_norm"})

    def tensors(self) -> tuple[str, ...]:
        """The names of its tensors in the file."""
        return _both(self.layer) if self.norm is None else (f"{self.layer}.weight", f"{self.norm}.weight")

    def arguments(self, fields: Fields) -> dict[str, Any]:
        """Its arguments of the mirrors' head."""
        found = {} if self.options is None else self.options(fields)
        if "activation" in found:
            return found
        return found | {"activation": self.activation or fields.word("hidden_act", words=ACTIVATIONS)}


def sequence_head(
    classifier: str,
    *,
    hidden: str | Hidden | None = None,
    activation: str | None = None,
    pooling: str | None = None,
    bias: bool = True,
    task: str = SEQUENCES,
    classes: tuple[str, ...] = ("ForSequenceClassification", "ForMultipleChoice"),
) -> Head:
    """A classifier of whole sequences.

    Args:
        classifier: name of its last linear layer.
        hidden: the hidden layer before it, or the name of its linear layer; None for none.
        activation: activation after `hidden`, if it is a name; None for the configuration's.
        pooling: class of the pooling, such as `LastToken`; None for the first token.
        bias: whether the last layer has a bias.
        task: one of `TASKS`.
        classes: ends of the names of the classes that write it.
    """
    options: dict[str, Any] = {} if bias else {"bias": False}
    options |= {} if pooling is None else {"pooling": Part(pooling)}
    absent = () if bias else (f"{classifier}.bias",)

    def part(fields: Fields, tensors: Tensors) -> Part:
        return Part(
            "SequenceClassifier", {"num_classes": _rows(f"{classifier}.weight", fields, tensors), **options}
        )

    return _classifier(task, classes, classifier, hidden, activation, part, bias=bias, absent=absent)


def image_head(
    classifier: str = "classifier",
    pooling: Callable[[Fields], Part | None] = lambda fields: None,
    norm: str | None = None,
) -> Head:
    """A classifier of images, whose linear layer has this name.

    Args:
        classifier: name of its linear layer.
        pooling: function of the configuration that describes the pooling; its result is None for the class token.
        norm: name of the norm of a `NormedPooling`; None for none.
    """

    def part(fields: Fields, tensors: Tensors) -> Part:
        chosen = pooling(fields)
        options = {} if chosen is None else {"pooling": chosen}
        classes = _rows(f"{classifier}.weight", fields, tensors)
        return Part("SequenceClassifier", {"num_classes": classes, **options})

    layers = {classifier: "classifier"} if norm is None else {classifier: "classifier", norm: "pooling.norm"}
    names = tuple(name for layer in layers for name in _both(layer))
    return Head(IMAGES, ("ForImageClassification",), _rules(layers), names, part)


def distilled_head(classifier: str, distillation: str) -> Head:
    """The classifiers of the class token and the distillation token, whose linear layers have these names."""

    def part(fields: Fields, tensors: Tensors) -> Part:
        return Part("DistilledClassifier", {"num_classes": _rows(f"{classifier}.weight", fields, tensors)})

    rules = _rules({classifier: "classifier", distillation: "distillation_classifier"})
    names = (*_both(classifier), *_both(distillation))
    return Head(IMAGES, ("ForImageClassificationWithTeacher",), rules, names, part)


def token_head(
    classifier: str,
    *,
    hidden: str | Hidden | None = None,
    activation: str | None = None,
    task: str = TOKENS,
    classes: tuple[str, ...] = ("ForTokenClassification",),
    absent: tuple[str, ...] = (),
) -> Head:
    """A classifier of each token or frame; arguments as in `sequence_head` and `Head`."""

    def part(fields: Fields, tensors: Tensors) -> Part:
        return Part("TokenClassifier", {"num_classes": _rows(f"{classifier}.weight", fields, tensors)})

    return _classifier(task, classes, classifier, hidden, activation, part, absent=absent)


def question_head(name: str = "qa_outputs", *, hidden: Hidden | None = None) -> Head:
    """Scores of each token as start and end of an answer, from a linear layer of this name."""

    def part(fields: Fields, tensors: Tensors) -> Part:
        return Part("QuestionAnswering")

    return _classifier(QUESTIONS, ("ForQuestionAnswering",), name, hidden, None, part, last="span_proj")


def _classifier(
    task: str,
    classes: tuple[str, ...],
    classifier: str,
    hidden: str | Hidden | None,
    activation: str | None,
    part: Callable[[Fields, Tensors], Part],
    *,
    last: str = "classifier",
    bias: bool = True,
    absent: tuple[str, ...] = (),
) -> Head:
    """A head with a last linear layer and perhaps a hidden layer before it."""
    given = Hidden(hidden, activation) if isinstance(hidden, str) else hidden
    before = {} if given is None else given.layers()
    tensors = _both(classifier) if bias else (f"{classifier}.weight",)

    def whole(fields: Fields, tensors: Tensors) -> Part:
        found = part(fields, tensors)
        more = {} if given is None else given.arguments(fields)
        return Part(found.name, {**found.arguments, **more})

    return Head(
        task,
        classes,
        _rules({**before, classifier: last}),
        (*(() if given is None else given.tensors()), *tensors),
        whole,
        absent=absent,
    )


def masked_head(
    transform: str,
    norm: str,
    bias: str,
    decoder: str,
    embedding: str,
    *,
    activation: str | None = None,
    options: Options | None = None,
) -> Head:
    """A masked language modelling head.

    Args:
        transform, norm: names of its linear layer and its norm.
        bias: name of the bias of its output.
        decoder: name of its output layer.
        embedding: name of the weight of the token embedding, which the output layer repeats unless its values differ.
        activation: activation of the transform; None for the configuration's.
        options: function of the configuration that returns the arguments of the mirrors' head, for a transform and a
            norm without biases; None for a transform and a norm with biases, and the configuration's epsilon.
    """
    weight = Tied(f"{decoder}.weight", embedding, "tied embeddings")

    def part(fields: Fields, tensors: Tensors) -> Part:
        if options is None:
            found: dict[str, Any] = {
                "activation": activation or fields.word("hidden_act", "activation", words=ACTIVATIONS),
                "norm_eps": fields.number("layer_norm_eps", default=1e-12),
            }
        else:
            found = {**options(fields), "bias": False}
        untied = tensors.differ(weight.name, weight.to) or any(name in tensors for name in OUTPUTS)
        return Part("MaskedLanguageHead", found | ({"tied": False} if untied else {}))

    weights = f"{transform}.weight", f"{norm}.weight"
    rules = (*_rules({transform: "transform", norm: "norm"}), Rule(bias, "head.decoder_bias"))
    repeated = f"{decoder}.bias"
    return Head(
        MASKED,
        ("ForMaskedLM", "ForPreTraining", "LMHeadModel", "ForCausalLM"),
        rules,
        (*(_both(transform) + _both(norm) if options is None else weights), bias),
        part,
        decoder=weight,
        bias=None if repeated == bias else Tied(repeated, bias, "the bias of the head"),
    )


def decoder_heads(tokens: str) -> tuple[Head, ...]:
    """The task heads of a decoder, whose classifier of tokens has the name `tokens`."""
    return (
        sequence_head("score", pooling="LastToken", bias=False, classes=("ForSequenceClassification",)),
        token_head(tokens),
        question_head(),
    )


def _rules(layers: dict[str, str]) -> tuple[Rule, ...]:
    """The rules of linear layers and norms, by their names in the file and in the mirrors' head."""
    return tuple(Rule(f"{theirs}.{{name}}", f"head.{ours}.{{name}}") for theirs, ours in layers.items())


def _both(layer: str) -> tuple[str, str]:
    return f"{layer}.weight", f"{layer}.bias"


def _rows(name: str, fields: Fields, tensors: Tensors) -> int:
    """Number of classes: the rows of the classifier; without shapes, the number of labels in the configuration."""
    found = tensors.rows(name, "head.classifier")
    if found is not None:
        return found
    labels = fields.raw("id2label")
    return (
        len(labels)
        if isinstance(labels, dict) and labels
        else fields.size("num_labels", "_num_labels", default=2)
    )
