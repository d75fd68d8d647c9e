"""Mechanisms of the catalogue that the models of each `model_type` compute with."""

from __future__ import annotations

_BERT = ("Encoder", "MultiHeadSelfAttention")
_SEQUENCES = (
    "CausalSelfAttention",
    "EncoderDecoderAttention",
    "MultiHeadCrossAttention",
    "MultiHeadSelfAttention",
)

MECHANISMS: dict[str, tuple[str, ...]] = {
    "albert": _BERT,
    "bart": _SEQUENCES,
    "bert": _BERT,
    "bloom": ("GroupedQueryAttention",),
    "clip": ("CausalSelfAttention", "Decoder", "MultiHeadSelfAttention", "ViTBlock"),
    "deepseek_v3": ("MultiHeadLatentAttention",),
    "distilbert": _BERT,
    "falcon": ("GroupedQueryAttention",),
    "gemma": ("GroupedQueryAttention",),
    "gemma2": ("SoftcapAttention",),
    "gemma3_text": ("QKNormAttention",),
    "gpt2": ("CausalSelfAttention", "Decoder"),
    "gpt_neox": ("GroupedQueryAttention",),
    "llama": ("GroupedQueryAttention",),
    "mistral": ("SlidingWindowAttention",),
    "qwen2": ("GroupedQueryAttention", "SlidingWindowAttention"),
    "qwen3": ("QKNormAttention",),
    "roberta": _BERT,
    "t5": ("GroupedQueryAttention", "MultiHeadCrossAttention"),
    "vit": ("MultiHeadSelfAttention", "ViTBlock"),
    "whisper": (*_SEQUENCES, "ViTBlock"),
}


def model_types(mechanism: str) -> list[str]:
    """The model types that compute with a class of the catalogue, in alphabetical order."""
    return [name for name, used in MECHANISMS.items() if mechanism in used]
