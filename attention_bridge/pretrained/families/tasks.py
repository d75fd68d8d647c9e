"""Choice of a checkpoint's task, and the model for it.

A checkpoint with a task head becomes a `TaskModel`, with the tensors of the model under `backbone` and the tensors of
the head under `head`. The tensors show which heads there are; the class that wrote the file chooses among them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.families.family import Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import FEATURES, GENERATION, OUTPUTS, TASKS, Head
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.layouts.jax_attention import JAX_ATTENTION
from attention_bridge.weights.layouts.torch_attention import TORCH_ATTENTION
from attention_bridge.weights.names import alternatives
from attention_bridge.weights.rule import Rule

LANGUAGE_MODELS = ("Decoder", "LanguageModel")
CAUSAL = ("ForCausalLM", "LMHeadModel")  # ends of the names of classes that compute the next token's logits
BACKBONES = (*LANGUAGE_MODELS, "Encoder", "VisionHierarchy", "VisionTransformer", "WaveformEncoder")
# Ends of JAX's parameter names, and their names in the canonical layout.
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def check_task(task: str | None) -> None:
    """Raise InputError unless a task is None or one of `TASKS`."""
    if task is not None and task not in TASKS:
        raise InputError(f"task must be None or one of {', '.join(TASKS)}, got {task!r}")


def with_task(reading: Reading, heads: Sequence[Head], fields: Fields, given: Tensors) -> Reading:
    """The reading with the task head that the tensors have, or that was asked for.

    Args:
        reading: the model without a task head, and the layout of its tensors.
        heads: task heads of the family.
        fields: the configuration, and the task that was asked for.
        given: the checkpoint's tensors.

    Raises:
        CheckpointError: the tensors do not have the head of the task that was asked for.
    """
    if reading.model.name == "TaskModel" or reading.layout in (TORCH_ATTENTION, JAX_ATTENTION):
        return reading
    tensors = given.spell(reading.layout)
    reading = _untied(reading, tensors)
    heads = heads if reading.model.name in BACKBONES else ()
    own = None if _is_outside(given, reading.layout) else _of_mirrors(given)
    found = [head for head in heads if (head.is_in(tensors) if own is None else head.is_in_mirror(own))]
    output = tensors if own is None else own
    found = [head for head in found if head.own or _has_output(head, output, reading, fields)]
    without = own is not None and not found
    lacks_logits = without or _lacks_logits(reading, tensors)
    head = _chosen(found, fields, reading, lacks_logits)
    if head is not None:
        return _with_head(reading, head, fields, given if own is not None else tensors)
    if lacks_logits or (fields.task == FEATURES and reading.model.name in LANGUAGE_MODELS):
        return _headless(reading)
    return reading


def output_head(layout: Layout) -> tuple[str | None, str | None]:
    """The names of a model's output head and of its token embedding, in the rules' spelling; None for no such rule."""
    names = {
        hub: theirs
        for rule in layout.rules
        for hub, theirs in zip(alternatives(rule.hub), alternatives(rule.theirs), strict=False)
    }
    return names.get("head.weight"), names.get("token_embedding.weight")


def has_only(tensors: Tensors, part: str, other: str) -> bool:
    """Whether names of one part of a model occur, but none of another part."""
    return any(part in f".{name}" for name in tensors) and not any(
        f".{other}" in f".{name}" for name in tensors
    )


def without(layout: Layout, *names: str) -> Layout:
    """The layout without the rules of these name patterns."""
    return replace(layout, rules=tuple(rule for rule in layout.rules if rule.theirs not in names))


def _is_outside(given: Tensors, layout: Layout) -> bool:
    """Whether names of the layout itself begin with `backbone.`, as in Mamba."""
    return any(name.startswith("backbone.") and layout.moves(name) for name in given)


def _of_mirrors(given: Tensors) -> frozenset[str] | None:
    """The canonical names of the head's tensors, for the names of a mirror's `TaskModel`; else None."""
    if not given.starts_with("backbone."):
        return None
    split = (name.rpartition(".") for name in given if name.startswith("head."))
    return frozenset(f"{path}.{LEAVES.get(leaf, leaf)}" for path, _, leaf in split)


def _untied(reading: Reading, tensors: Tensors) -> Reading:
    """The reading without tied embeddings if the file has an output head of its own."""
    head, _ = output_head(reading.layout)
    tied = next((each for each in reading.layout.tied if each.name == head), None)
    if head is None or tied is None or not tensors.differ(head, tied.to):
        return reading
    config = reading.model.arguments["config"]
    changed = {**config.arguments, "tied": False}
    return replace(
        reading,
        model=Part(reading.model.name, {"config": Part(config.name, changed)}),
        layout=replace(reading.layout, tied=tuple(each for each in reading.layout.tied if each is not tied)),
    )


def _lacks_logits(reading: Reading, tensors: Tensors) -> bool:
    """Whether the file has the embeddings of a language model, but neither its output head nor tied embeddings."""
    config = reading.model.arguments["config"].arguments
    head, embedding = output_head(reading.layout)
    if reading.model.name not in LANGUAGE_MODELS:
        return False
    if not config.get("is_causal", True):
        return True
    tied = config.get("tied", reading.model.name == "Decoder")
    return not tied and embedding in tensors and head not in tensors


def _has_output(head: Head, names: Collection[str], reading: Reading, fields: Fields) -> bool:
    """Whether there is a head of one output layer: in the file, or tied and named by the class or the task."""
    decoders = (OUTPUTS[0], *(() if head.decoder is None else (head.decoder.name,)))
    if any(name in names for name in decoders):
        return True
    tied = reading.model.arguments["config"].arguments.get("tied", False)
    return tied and (fields.task == head.task or _class_name(fields).endswith(head.classes))


def _class_name(fields: Fields) -> str:
    """The name of the class that wrote the file; empty if the configuration has none."""
    names = fields.given.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def _chosen(found: Sequence[Head], fields: Fields, reading: Reading, lacks_logits: bool) -> Head | None:
    """The head of the task that was asked for; else of the class that wrote the file; else the first; None for none."""
    written = _class_name(fields)
    fitting = [head for head in found if written.endswith(head.classes)]
    has_logits = reading.model.name in LANGUAGE_MODELS and not lacks_logits
    if fields.task is None and has_logits and written.endswith(CAUSAL):
        return None
    if fields.task is None:
        return next(iter([*fitting, *found]), None)
    matching = [head for head in (*fitting, *found) if head.task == fields.task]
    if matching:
        return matching[0]
    possible = {FEATURES, *(head.task for head in found)}
    if has_logits:
        possible.add(GENERATION)
    if fields.task not in possible:
        raise CheckpointError(
            f"task must be one whose tensors the checkpoint has, {' or '.join(sorted(possible))}, got {fields.task}"
        )
    return None


def _with_head(reading: Reading, head: Head, fields: Fields, tensors: Tensors) -> Reading:
    part = head.part(fields, tensors)
    rules, tied = list(head.rules), []
    if head.decoder is not None:
        if part.arguments.get("tied", True):
            tied.append(head.decoder)
        else:
            rules.append(Rule(head.decoder.name, "head.decoder.weight"))
    if head.bias is not None:
        if tensors.differ(head.bias.name, head.bias.to):  # the reference adds the output layer's
            rules = [rule for rule in rules if rule.theirs != head.bias.to]
            rules.append(Rule(head.bias.name, "head.decoder_bias"))
        else:
            tied.append(head.bias)
    layout = _body(without(reading.layout, *(rule.theirs for rule in rules)))
    reading = replace(reading, layout=replace(layout, rules=(*rules, *layout.rules)))
    return _task_model(reading, part, tuple(tied), head.backbone)


def _headless(reading: Reading) -> Reading:
    """The model without its output head."""
    return _task_model(replace(reading, layout=_body(reading.layout)), Part("NoHead"))


def _body(layout: Layout) -> Layout:
    """The layout of a model as a backbone, which has neither an output head nor a pooler nor a pooling."""
    parts = ("head.", "head_bias", "pooler.", "pooling.")
    kept = tuple(rule for rule in layout.rules if not rule.hub.startswith(parts))
    heads = tuple(
        Unused(rule.theirs, "the output head")
        for rule in layout.rules
        if rule.hub.startswith(parts) and not rule.hub.startswith("pooler.")
    )
    return replace(layout, rules=kept, unused=(*layout.unused, *heads)).within("backbone")


def _task_model(
    reading: Reading, head: Part, tied: tuple[Any, ...] = (), changes: Mapping[str, Any] | None = None
) -> Reading:
    backbone = reading.model.arguments["config"]
    backbone = replace(backbone, arguments={**backbone.arguments, **(changes or {})})
    if "pooler" in backbone.arguments:
        backbone = replace(backbone, arguments={**backbone.arguments, "pooler": False})
    if "pooling" in backbone.arguments:
        backbone = replace(backbone, arguments={**backbone.arguments, "pooling": None})
    description = Part("TaskSpec", {"backbone": backbone, "head": head})
    return replace(
        reading,
        model=Part("TaskModel", {"config": description}),
        layout=replace(reading.layout, tied=(*reading.layout.tied, *tied)),
    )
