"""Text models inside multimodal checkpoints: LLaVA, Mistral 3, Gemma 3n and 4, and Qwen's with three axes of positions.

For text alone, M-RoPE (Wang et al. 2024) is RoPE: its three positions are equal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.readers.gemma3n import read_gemma3n
from attention_bridge.pretrained.families.readers.gemma4 import read_gemma4
from attention_bridge.pretrained.families.readers.ministral3 import read_ministral3
from attention_bridge.pretrained.families.readers.rotary_decoders import read_llama
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.pretrained.families.text_part import TextPart, text_family

AXES = ("mrope_section", "mrope_interleaved")
WINDOWS = ("layer_types", "max_window_layers", "sliding_window", "use_sliding_window")


def read_qwen_vl(fields: Fields, tensors: Tensors) -> Reading:
    """Read the text configuration of Qwen2-VL, Qwen2.5-VL or Qwen3-VL (Wang et al. 2024; Bai et al. 2025)."""
    third = fields.given["model_type"] == "qwen3_vl_text"
    if not third:  # the reference has no other
        fields.only("head_dim", None, fields.size("hidden_size") // fields.size("num_attention_heads"))
    ignored = WINDOWS if third else ("attention_bias", "mlp_bias")  # the reference does not read them
    kept = {name: x for name, x in fields.given.items() if name not in ignored}
    for name in ("rope_parameters", "rope_scaling"):
        if isinstance(kept.get(name), Mapping):
            kept[name] = _one_axis(kept[name])
    given = Fields({**kept, "model_type": "qwen3" if third else "qwen2"}, fields.source, fields.defaults)
    reading = read_llama(given, tensors)
    fields.seen.update(given.seen, ignored)
    return reading


def _one_axis(given: Mapping[str, Any]) -> dict[str, Any]:
    """The RoPE parameters without the division of a head's features among the axes."""
    found = {name: x for name, x in given.items() if name not in AXES}
    return {
        name: "default" if x == "mrope" and name in ("type", "rope_type") else x for name, x in found.items()
    }


LLAMAS = dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), read_llama)
PROJECTED = ("vision_tower", "multi_modal_projector")
LLAVA_FIELDS = (
    "image_grid_pinpoints",
    "image_seq_length",
    "image_token_index",
    "multimodal_projector_bias",
    "projector_hidden_act",
    "spatial_merge_size",
    "use_image_newline_parameter",
    "vision_config",
    "vision_feature_layer",
    "vision_feature_select_strategy",
)
QWEN_FIELDS = (
    "image_token_id",
    "video_token_id",
    "vision_config",
    "vision_end_token_id",
    "vision_start_token_id",
    "vision_token_id",
)
GEMMA4_FIELDS = (
    "audio_config",
    "audio_token_id",
    "boa_token_id",
    "boi_token_id",
    "eoa_token_id",
    "eoa_token_index",
    "eoi_token_id",
    "image_token_id",
    "video_token_id",
    "vision_config",
    "vision_soft_tokens_per_image",
)
GEMMA3N_FIELDS = (
    "audio_config",
    "audio_soft_tokens_per_image",
    "audio_token_id",
    "boa_token_id",
    "boi_token_id",
    "eoa_token_id",
    "eoi_token_id",
    "image_token_id",
    "vision_config",
    "vision_soft_tokens_per_image",
)
LLAVA = TextPart("llama", LLAMAS, LLAVA_FIELDS, (*PROJECTED, "image_newline"), either=True)
GEMMA4 = TextPart(
    "gemma4_text",
    {"gemma4_text": read_gemma4},
    GEMMA4_FIELDS,
    ("vision_tower", "audio_tower", "embed_vision", "embed_audio"),
)
GEMMA3N = TextPart(
    "gemma3n_text",
    {"gemma3n_text": read_gemma3n},
    GEMMA3N_FIELDS,
    ("vision_tower", "audio_tower", "embed_vision", "embed_audio"),
)
MISTRAL3 = TextPart("mistral", {**LLAMAS, "ministral3": read_ministral3}, LLAVA_FIELDS, PROJECTED)


def _qwen(text: str, *, either: bool) -> TextPart:
    return TextPart(text, {text: read_qwen_vl}, QWEN_FIELDS, ("visual",), either=either, flat=either)


FAMILIES = (
    Family("hf.llama", ("qwen2_vl_text", "qwen2_5_vl_text", "qwen3_vl_text"), read_qwen_vl),
    text_family("hf.llama", ("llava", "llava_next"), LLAVA),
    text_family("hf.llama", ("mistral3",), MISTRAL3),
    text_family("hf.llama", ("qwen2_vl",), _qwen("qwen2_vl_text", either=True)),
    text_family("hf.llama", ("qwen2_5_vl",), _qwen("qwen2_5_vl_text", either=True)),
    text_family("hf.llama", ("qwen3_vl",), _qwen("qwen3_vl_text", either=False)),
    text_family("hf.gemma3n", ("gemma3n",), GEMMA3N),
    text_family("hf.gemma4", ("gemma4",), GEMMA4),
)
