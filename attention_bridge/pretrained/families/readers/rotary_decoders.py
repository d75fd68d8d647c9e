"""Readers of decoders with RMS norms and rotary positions: Llama, Mistral, Qwen, Gemma."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import (
    grouped_heads,
    head_dim,
    layer_types,
    with_tied,
)
from attention_bridge.pretrained.families.defaults import defaults_of
from attention_bridge.pretrained.families.describe import Heads, language_model, rotary_decoder
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, LARGEST, Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import parameters, rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_llama import HF_GEMMA, HF_GEMMA3, HF_LLAMA
from attention_bridge.weights.layouts.meta_llama import META_LLAMA

EMBEDDINGS = "model.embed_tokens.weight"
# Fields of a multimodal configuration that only concern its images.
IMAGE_FIELDS = (
    "boi_token_index",
    "eoi_token_index",
    "image_token_index",
    "mm_tokens_per_image",
    "vision_config",
)
DEFAULT_WINDOW = 4096  # default of Mistral, Qwen, Gemma 2 and 3


def read_llama(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of Llama, Mistral, Ministral, Qwen 2, Qwen 3 or InternLM 3.

    Touvron et al. 2023; Jiang et al. 2023; Yang et al. 2024, 2025; Cai et al. 2024.
    """
    kind = fields.given.get("model_type")
    if kind == "internlm3":
        names = {"qkv_bias": "attention_bias", "bias": "mlp_bias"}
        fields.given = {names.get(name, name): value for name, value in fields.given.items()}
    if kind == "ministral":
        fields.only("attention_bias", False)
    bias = fields.flag("attention_bias", False)
    heads = {"qkv_bias": bias or kind == "qwen2", "out_bias": bias, "qk_norm": kind == "qwen3"}
    return _decoder(fields, heads, {"ffn_bias": fields.flag("mlp_bias", False)})


def read_gemma(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Gemma configuration (Google 2024): norms multiply by 1 + weight, and embeddings are scaled."""
    bias = fields.flag("attention_bias", False)
    fields.only("use_bidirectional_attention", False, None)
    heads = {"qkv_bias": bias, "out_bias": bias, "unit_offset": True}
    # The reference reads `hidden_act` today, not this older field, and takes "gelu" there as its tanh approximation.
    fields.raw("hidden_activation")
    tanh = ACTIVATIONS["gelu_pytorch_tanh"]
    activation = fields.word("hidden_act", words={**ACTIVATIONS, "gelu": tanh}, default=tanh)
    return _decoder(fields, heads, _gemma(fields), tied=True, activation=activation)


def read_gemma2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of Gemma 2 (Google 2024), VaultGemma (Sinha et al. 2025) or Gemma 3 (Google 2025).

    All have windows, and four norms per layer but for VaultGemma, which has two. Gemma 3 has normalised queries and
    keys, the others have softcapped scores.
    """
    third = fields.given.get("model_type") == "gemma3_text"
    bias = fields.flag("attention_bias", False)
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
        "logit_softcap": _softcap(fields, "final_logit_softcapping", None if third else 30.0),
    }
    if third:
        others["local_rope"] = rope(_local(fields), head_dim(fields))
    pattern = fields.size("sliding_window_pattern", "_sliding_window_pattern", default=6 if third else 2)
    return _decoder(fields, heads, others, tied=True, layout=HF_GEMMA, pattern=pattern)


def read_gemma3(fields: Fields, tensors: Tensors) -> Reading:
    """Read the text model inside a multimodal Gemma 3 (Google 2025), without the modules that read images."""
    text = fields.part("text_config", defaults_of("gemma3_text"))
    text.given = {**text.given, "model_type": "gemma3_text"}
    for name in IMAGE_FIELDS:
        fields.raw(name)
    if "tie_word_embeddings" in fields.given and "tie_word_embeddings" not in text.given:
        text.given["tie_word_embeddings"] = fields.given["tie_word_embeddings"]
    fields.raw("tie_word_embeddings")
    reading = read_gemma2(text, tensors)
    text.finish()
    return replace(reading, layout=replace(HF_GEMMA3, tied=reading.layout.tied))


def read_meta(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Llama configuration as published by Meta, `params.json`; the feed-forward size is computed from it."""
    dim, heads = fields.dim_and_heads(("dim",), ("n_heads",))
    ffn_dim = int(2 * 4 * dim / 3)
    ffn_dim = int(fields.number("ffn_dim_multiplier", default=1.0) * ffn_dim)
    multiple = fields.size("multiple_of")
    ffn_dim = multiple * -(-ffn_dim // multiple)
    if not 0 < ffn_dim <= LARGEST:
        raise CheckpointError(
            f"{fields.source} must have an ffn_dim_multiplier that gives 1 to {LARGEST} features, "
            f"got {shown(fields.raw('ffn_dim_multiplier'))}"
        )
    fields.only("use_scaled_rope", False)
    if fields.raw("vocab_size") == -1:  # Meta's own loader asks the tokenizer
        raise CheckpointError(
            f"{fields.source} must have the vocab_size, the number of rows of tok_embeddings.weight, got -1"
        )
    fields.raw("max_seq_len", "max_batch_size")
    return Reading(
        language_model(
            rotary_decoder(
                Heads(
                    dim,
                    heads,
                    fields.size("n_kv_heads", default=heads),
                    dim // heads,
                    norm_eps=fields.number("norm_eps"),
                ),
                vocab_size=fields.size("vocab_size"),
                num_layers=fields.layers("n_layers"),
                ffn_dim=ffn_dim,
                rope=rope(fields, dim // heads),
            )
        ),
        META_LLAMA,
        {"pair": dim // heads // 2},
    )


def _decoder(
    fields: Fields,
    heads: dict[str, Any],
    others: dict[str, Any],
    *,
    tied: bool = False,
    layout: Any = HF_LLAMA,
    pattern: int = 1,
    activation: str | None = None,
) -> Reading:
    tied = fields.flag("tie_word_embeddings", tied)
    sizes = grouped_heads(fields)
    eps = fields.number("rms_norm_eps")
    num_layers = fields.layers("num_hidden_layers")
    windows = _windows(fields, num_layers, pattern)
    positions = rope(fields, sizes["head_dim"], layers="full_attention")
    fields.size("max_position_embeddings", default=None)
    return Reading(
        language_model(
            rotary_decoder(
                Heads(fields.size("hidden_size"), **sizes, norm_eps=eps, **heads),
                vocab_size=fields.size("vocab_size"),
                num_layers=num_layers,
                ffn_dim=fields.size("intermediate_size"),
                activation=activation or fields.word("hidden_activation", "hidden_act", words=ACTIVATIONS),
                windows=windows,
                rope=positions,
                tied=tied,
                **others,
            )
        ),
        with_tied(layout, tied, "lm_head.weight", EMBEDDINGS),
    )


def _windows(fields: Fields, num_layers: int, pattern: int) -> tuple[int | None, ...]:
    """The window of each layer; by default, every `pattern`-th layer has no window."""
    kind, kinds = fields.given.get("model_type"), fields.raw("layer_types")
    plain = ("llama", "gemma", "internlm3")  # these models have no windows
    windowed = "sliding_window" in fields.given or kind in plain
    window = fields.size("sliding_window", default=None) if windowed else DEFAULT_WINDOW
    fields.seen.add("sliding_window")
    from_layer = fields.whole("max_window_layers", default=28)
    if kind in ("qwen2", "qwen3") and not fields.flag("use_sliding_window", False):
        return ()
    if window is None or kind in plain:
        return ()
    if kind == "mistral":  # it has windows in all layers
        kinds = None
    if kinds is None:
        kinds = [
            "full_attention"
            if (kind in ("qwen2", "qwen3") and n < from_layer) or (pattern > 1 and (n + 1) % pattern == 0)
            else "sliding_attention"
            for n in range(num_layers)
        ]
    kinds = layer_types(fields, num_layers, kinds, ("full_attention", "sliding_attention"))
    return tuple(window if kind == "sliding_attention" else None for kind in kinds)


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


HEADS = decoder_heads("score")
FAMILIES = (
    Family("hf.llama", ("llama", "mistral", "ministral", "qwen2", "qwen3", "internlm3"), read_llama, HEADS),
    Family("hf.llama", ("gemma",), read_gemma, HEADS),
    Family("hf.gemma", ("gemma2", "gemma3_text"), read_gemma2, HEADS),
    Family("hf.gemma", ("vaultgemma",), read_gemma2),
    Family("hf.gemma3", ("gemma3",), read_gemma3, HEADS),
    Family("meta.llama", ("meta.llama",), read_meta),
)
