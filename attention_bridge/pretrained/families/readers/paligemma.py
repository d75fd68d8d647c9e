"""Reader of the text model inside PaliGemma 1 and 2 (Beyer et al. 2024; Steiner et al. 2024), a Gemma.

Without images, the reference attends causally unless a call marks a prefix by token types.
"""

from __future__ import annotations

from attention_bridge.pretrained.families.family import Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.readers.gemma import read_gemma, read_gemma2
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.pretrained.families.text_part import TextPart, text_family

FIELDS = (
    "hidden_size",
    "ignore_index",
    "image_token_index",
    "projection_dim",
    "vision_config",
    "vocab_size",
)
OF_PREFIXES = ("num_image_tokens", "use_bidirectional_attention")
READERS = {"gemma": read_gemma, "gemma2": read_gemma2}


def read_paligemma_text(fields: Fields, tensors: Tensors) -> Reading:
    """Read the text configuration of PaliGemma, without the fields of its prefixes of images."""
    fields.raw(*OF_PREFIXES)
    kept = {name: x for name, x in fields.given.items() if name not in OF_PREFIXES}
    given = Fields(kept, fields.source, fields.defaults)
    reading = READERS[fields.given["model_type"]](given, tensors)
    fields.seen.update(given.seen)
    return reading


PALIGEMMA = TextPart(
    "gemma",
    dict.fromkeys(READERS, read_paligemma_text),
    FIELDS,
    ("vision_tower", "multi_modal_projector"),
)
FAMILIES = (text_family("hf.gemma", ("paligemma",), PALIGEMMA),)
