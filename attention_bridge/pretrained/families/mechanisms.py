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
    "bloom": ("ALiBi", "GroupedQueryAttention"),
    "clip": ("CausalSelfAttention", "Decoder", "MultiHeadSelfAttention", "ViTBlock"),
    "clip_text_model": ("CausalSelfAttention", "Decoder"),
    "clip_vision_model": ("MultiHeadSelfAttention", "ViTBlock"),
    "deepseek_v3": ("MultiHeadLatentAttention", "RotaryEmbedding"),
    "distilbert": _BERT,
    "falcon": ("GroupedQueryAttention", "RotaryEmbedding"),
    "gemma": ("GroupedQueryAttention", "RotaryEmbedding"),
    "gemma2": ("RotaryEmbedding", "SoftcapAttention"),
    "gemma3": ("QKNormAttention", "RotaryEmbedding"),
    "gemma3_text": ("QKNormAttention", "RotaryEmbedding"),
    "gpt2": ("CausalSelfAttention", "Decoder"),
    "gpt_neox": ("GroupedQueryAttention", "RotaryEmbedding"),
    "llama": ("GroupedQueryAttention", "RotaryEmbedding"),
    "mistral": ("RotaryEmbedding", "SlidingWindowAttention"),
    "qwen2": ("GroupedQueryAttention", "RotaryEmbedding", "SlidingWindowAttention"),
    "qwen3": ("QKNormAttention", "RotaryEmbedding"),
    "roberta": _BERT,
    "t5": ("GroupedQueryAttention", "MultiHeadCrossAttention", "T5Bias"),
    "vit": ("MultiHeadSelfAttention", "ViTBlock"),
    "whisper": (*_SEQUENCES, "ViTBlock"),
}


def model_types(mechanism: str) -> list[str]:
    """The model types that compute with a class of the catalogue, in alphabetical order."""
    return [name for name, used in MECHANISMS.items() if mechanism in used]
