"""Readers of Gemma 1 to 3 (Google 2024, 2025), and of EmbeddingGemma, an encoder."""

from __future__ import annotations

from typing import Any

from attention_bridge.pretrained.families.decoder_fields import head_dim
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.readers.rotary_decoders import HEADS, rotary_model
from attention_bridge.pretrained.families.rope import parameters, rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.pretrained.families.text_part import TextPart, text_family
from attention_bridge.weights.layouts.hf_llama import HF_GEMMA, HF_GEMMA3

# Fields of a multimodal configuration that only concern its images.
IMAGE_FIELDS = (
    "boi_token_index",
    "eoi_token_index",
    "image_token_index",
    "mm_tokens_per_image",
    "vision_config",
)


def read_gemma(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Gemma configuration (Google 2024): norms multiply by 1 + weight, and embeddings are scaled."""
    bias = fields.flag("attention_bias", False)
    fields.only("use_bidirectional_attention", False, None)
    heads = {"qkv_bias": bias, "out_bias": bias, "unit_offset": True}
    # The reference reads `hidden_act` today, not this older field, and takes "gelu" there as its tanh approximation.
    fields.raw("hidden_activation")
    tanh = ACTIVATIONS["gelu_pytorch_tanh"]
    activation = fields.word("hidden_act", words={**ACTIVATIONS, "gelu": tanh}, default=tanh)
    return rotary_model(fields, heads, _gemma(fields), tied=True, activation=activation)


def read_gemma2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of Gemma 2 (Google 2024), VaultGemma (Sinha et al. 2025) or Gemma 3 (Google 2025).

    All have windows, and four norms per layer but for VaultGemma, which has two. Gemma 3 has normalised queries and
    keys, the others have softcapped scores. With `use_bidirectional_attention`, Gemma 3 is an encoder, EmbeddingGemma.
    """
    third = fields.given.get("model_type") == "gemma3_text"
    bias = fields.flag("attention_bias", False)
    sees_all = third and fields.flag("use_bidirectional_attention", False)
    if not third:
        fields.only("use_bidirectional_attention", False, None)
    fields.raw("attn_logit_softcapping")  # Gemma 3 of the reference stores it, but does not apply it
    heads = {
        "qkv_bias": bias,
        "out_bias": bias,
        "scale": fields.number("query_pre_attn_scalar") ** -0.5,
        "softcap": None if third else _softcap(fields, "attn_logit_softcapping", 50.0),
        "qk_norm": third,
        "unit_offset": True,
    }
    others = {
        **_gemma(fields),
        "sandwich": fields.given.get("model_type") != "vaultgemma",
        "is_causal": not sees_all,
        "logit_softcap": _softcap(fields, "final_logit_softcapping", None if third else 30.0),
    }
    if third:
        others["local_rope"] = rope(_local(fields), head_dim(fields))
    pattern = fields.size("sliding_window_pattern", "_sliding_window_pattern", default=6 if third else 2)
    return rotary_model(fields, heads, others, tied=True, layout=HF_GEMMA, pattern=pattern)


def _softcap(fields: Fields, name: str, absent: float | None) -> float | None:
    """A softcap: null means none, and an absent field means `absent`."""
    cap: float | None = fields.number(name, default=None)
    return cap if name in fields.given else absent


def _gemma(fields: Fields) -> dict[str, Any]:
    return {"embed_scale": fields.size("hidden_size") ** 0.5}


def _local(fields: Fields) -> Fields:
    """The RoPE fields of layers with a window, which have no scaling."""
    base = fields.number("rope_local_base_freq", default=10000.0)
    given = parameters(fields).raw("sliding_attention", default={"rope_theta": base})
    return Fields({"rope_parameters": given}, fields.source)


# The text model inside a multimodal Gemma 3, without the modules that read images.
GEMMA3 = TextPart("gemma3_text", {"gemma3_text": read_gemma2}, IMAGE_FIELDS, (), layout=HF_GEMMA3)
FAMILIES = (
    Family("hf.llama", ("gemma",), read_gemma, HEADS),
    Family("hf.gemma", ("gemma2", "gemma3_text"), read_gemma2, HEADS),
    Family("hf.gemma", ("vaultgemma",), read_gemma2),
    text_family("hf.gemma3", ("gemma3",), GEMMA3, HEADS),
)
