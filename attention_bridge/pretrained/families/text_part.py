"""Text models inside multimodal checkpoints: their configuration, and the names of their tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.defaults import defaults_of
from attention_bridge.pretrained.families.family import Family, Reader, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import Head
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.special_tokens import FIELDS, with_special_tokens
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout, Unused

# Names of the text model's tensors in a multimodal checkpoint, and in a checkpoint of its own.
SPELLINGS = (
    ("language_model.model.{rest}", "model.{rest}"),
    ("model.language_model.{rest}", "model.{rest}"),
    ("language_model.{rest}", "{rest}"),
)
TIED = "tie_word_embeddings"
# Fields that describe a configuration, not its text model.
OUTER = frozenset(("architectures", "auto_map", "model_type", "transformers_version"))


@dataclass(frozen=True)
class TextPart:
    """The text model inside a family of multimodal checkpoints. Its tensors are read; the others are kept for saving.

    Attributes:
        text: model type of the text model, if the configuration does not name it.
        readers: readers of text models by their model type.
        fields: fields of the multimodal configuration that concern only images, videos or sound.
        modules: names of the modules that read images, videos or sound.
        layout: layout of the text model in these checkpoints; None for the text model's own, with `spellings`.
        either: whether embeddings are tied if either configuration says so; False if only the multimodal one decides.
        flat: whether the fields of the text model may be in the multimodal configuration.
    """

    text: str
    readers: Mapping[str, Reader]
    fields: tuple[str, ...]
    modules: tuple[str, ...]
    layout: Layout | None = None
    either: bool = False
    flat: bool = False

    def read(self, fields: Fields, tensors: Tensors) -> Reading:
        """Read the text model."""
        text = self._text(fields)
        kind = text.given["model_type"]
        for name in self.fields:
            fields.raw(name)
        tied = fields.flag(TIED, False)
        text.given = {**text.given, TIED: tied or (self.either and text.flag(TIED, False))}
        spelled = tensors.spell(self.spelled(Layout("hf.text", ())))
        reading = self.readers[kind](text, spelled)
        text.finish()
        tokens = {name: fields.given[name] for name in FIELDS.values() if fields.given.get(name) is not None}
        model = with_special_tokens(reading.model, {**text.defaults, **text.given, **tokens})
        return replace(reading, model=model, layout=self.spelled(reading.layout))

    def spelled(self, layout: Layout) -> Layout:
        """The layout with the names of the text model in these checkpoints."""
        unused = tuple(
            Unused(f"{path}{name}.{{rest}}", "not part of the text model")
            for path in ("", "model.")
            for name in self.modules
        )
        if self.layout is not None:
            return replace(self.layout, tied=layout.tied, dropped=layout.dropped)
        return replace(layout, spellings=(*SPELLINGS, *layout.spellings), unused=(*layout.unused, *unused))

    def _text(self, fields: Fields) -> Fields:
        """The fields of the text model."""
        if self.flat and fields.raw("text_config") is None:
            given = {
                name: x for name, x in fields.given.items() if name not in self.fields and name not in OUTER
            }
            fields.seen.update(given)
            return Fields({**given, "model_type": self.text}, fields.source, defaults_of(self.text))
        text = fields.part("text_config", {})
        kind = text.given.get("model_type", self.text)
        if not isinstance(kind, str) or kind not in self.readers:
            raise CheckpointError(
                f"{text.source} must have a model_type {' or '.join(self.readers)}, got {shown(kind)}"
            )
        return Fields({**text.given, "model_type": kind}, text.source, defaults_of(kind))


def text_family(
    name: str, model_types: tuple[str, ...], part: TextPart, heads: tuple[Head, ...] = ()
) -> Family:
    """The family of multimodal checkpoints with this text model."""
    return Family(name, model_types, part.read, heads)
