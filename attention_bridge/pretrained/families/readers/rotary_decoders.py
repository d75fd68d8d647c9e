"""Readers of decoders with RMS norms and rotary positions: Llama, Mistral, Qwen."""

from __future__ import annotations

from typing import Any

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import (
    FULL,
    WINDOWED,
    grouped_heads,
    layer_types,
    with_tied,
)
from attention_bridge.pretrained.families.describe import Heads, language_model, rotary_decoder
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, LARGEST, Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_llama import HF_LLAMA
from attention_bridge.weights.layouts.meta_llama import META_LLAMA

EMBEDDINGS = "model.embed_tokens.weight"
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
    return rotary_model(fields, heads, {"ffn_bias": fields.flag("mlp_bias", False)})


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


def rotary_model(
    fields: Fields,
    heads: dict[str, Any],
    others: dict[str, Any],
    *,
    tied: bool = False,
    layout: Any = HF_LLAMA,
    pattern: int = 1,
    activation: str | None = None,
) -> Reading:
    """The reading of a decoder with the names of Llama.

    Args:
        fields: the configuration.
        heads: further arguments of `Heads`.
        others: further arguments of `rotary_decoder`.
        tied: whether the embeddings are tied, if the configuration says nothing.
        layout: layout of the tensors.
        pattern: every `pattern`-th layer has no window, if the configuration says nothing.
        activation: activation of the gate; None for the configuration's.
    """
    tied = fields.flag("tie_word_embeddings", tied)
    sizes = grouped_heads(fields)
    eps = fields.number("rms_norm_eps")
    num_layers = fields.layers("num_hidden_layers")
    windows = _windows(fields, num_layers, pattern, is_causal=others.get("is_causal", True))
    positions = rope(fields, sizes["head_dim"], layers=FULL)
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


def _windows(fields: Fields, num_layers: int, pattern: int, *, is_causal: bool) -> tuple[int | None, ...]:
    """The window of each layer; by default, every `pattern`-th layer has no window.

    An encoder has half of the window on each side.
    """
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
            FULL
            if (kind in ("qwen2", "qwen3") and n < from_layer) or (pattern > 1 and (n + 1) % pattern == 0)
            else WINDOWED
            for n in range(num_layers)
        ]
    kinds = layer_types(fields, num_layers, kinds, (FULL, WINDOWED))
    reach = window if is_causal else window // 2 + 1  # on each side, with the query's own key
    return tuple(reach if kind == WINDOWED else None for kind in kinds)


HEADS = decoder_heads("score")
FAMILIES = (
    Family("hf.llama", ("llama", "mistral", "ministral", "qwen2", "qwen3", "internlm3"), read_llama, HEADS),
    Family("meta.llama", ("meta.llama",), read_meta),
)
