"""Readers of decoders that differ from Llama in a few choices, such as GLM, Ernie 4.5, Nemotron and Exaone 4.

Rotary pairs may be neighbours (interleaved) and cover a part of a head; biases, norms and feed-forward networks vary.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import FULL, WINDOWED, grouped_heads, layer_types
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn, plain_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import rope, rotary_share
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_glm import HF_GLM, HF_GLM4
from attention_bridge.weights.layouts.hf_llama import HF_LLAMA
from attention_bridge.weights.layouts.hf_nemotron import HF_NEMOTRON, hf_stablelm
from attention_bridge.weights.layouts.hf_olmo import HF_OLMO2
from attention_bridge.weights.layouts.hf_persimmon import HF_PERSIMMON


def read_glm(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of GLM or GLM-4 (Zeng et al. 2024), which also normalises the outputs of sublayers."""
    fourth = fields.given.get("model_type") == "glm4"
    return _read(
        fields,
        HF_GLM4 if fourth else HF_GLM,
        arrangement="sandwich" if fourth else "pre",
        qkv_bias=fields.flag("attention_bias", True),
        share=0.5,
        interleaved=True,
    )


def read_ernie4_5(fields: Fields, tensors: Tensors) -> Reading:
    """Read an Ernie 4.5 configuration (Baidu 2025)."""
    bias = fields.flag("use_bias", False)
    ffn = gated_ffn(fields, bias=bias)
    return _read(fields, HF_LLAMA, qkv_bias=bias, out_bias=bias, ffn=ffn, interleaved=True, tied=True)


def read_helium(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Helium configuration (Kyutai 2025)."""
    sizes = grouped_heads(fields)
    fields.divides("hidden_size", fields.size("hidden_size"), "head_dim", sizes["head_dim"])
    if sizes["num_heads"] * sizes["head_dim"] != fields.size("hidden_size"):
        raise CheckpointError(
            f"{fields.source} must have a hidden_size of num_attention_heads * head_dim, "
            f"got {fields.size('hidden_size')}, {sizes['num_heads']} and {sizes['head_dim']}"
        )
    ffn = gated_ffn(fields, bias=fields.flag("mlp_bias", False))
    bias = fields.flag("attention_bias", False)
    return _read(fields, HF_LLAMA, qkv_bias=bias, ffn=ffn, interleaved=True)


def read_seed_oss(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Seed-OSS configuration (ByteDance 2025)."""
    fields.raw("residual_dropout")
    return _read(
        fields,
        HF_LLAMA,
        qkv_bias=fields.flag("attention_bias", True),
        out_bias=fields.flag("attention_out_bias", False),
        ffn=gated_ffn(fields, bias=fields.flag("mlp_bias", False)),
    )


def read_arcee(fields: Fields, tensors: Tensors) -> Reading:
    """Read an Arcee configuration (Arcee AI 2025): a feed-forward network of squared ReLUs, without a gate."""
    bias = fields.flag("attention_bias", False)
    ffn = plain_ffn(fields, bias=fields.flag("mlp_bias", False))
    return _read(fields, HF_LLAMA, qkv_bias=bias, out_bias=bias, ffn=ffn)


def read_nemotron(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Nemotron configuration (Parmar et al. 2024): layer norms that multiply by 1 + weight, squared ReLUs."""
    bias = fields.flag("attention_bias", False)
    norm = Part("layer_norm", {"eps": fields.number("norm_eps"), "unit_offset": True})
    ffn = plain_ffn(fields, bias=fields.flag("mlp_bias", False))
    return _read(fields, HF_NEMOTRON, qkv_bias=bias, out_bias=bias, norm=norm, ffn=ffn, share=0.5)


def read_jais2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Jais 2 configuration (Inception 2025): layer norms, biases, squared ReLUs."""
    bias = fields.flag("attention_bias", True)
    norm = Part("layer_norm", {"eps": fields.number("layer_norm_eps")})
    ffn = plain_ffn(fields, bias=fields.flag("mlp_bias", True))
    return _read(fields, HF_NEMOTRON, qkv_bias=bias, out_bias=bias, norm=norm, ffn=ffn)


def read_persimmon(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Persimmon configuration (Adept 2023): biases everywhere, squared ReLUs, norms of queries and keys."""
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",))
    norm = Part("layer_norm", {"eps": fields.number("layer_norm_eps")})
    head_norm = replace(norm, arguments={"dim": dim // heads, **norm.arguments})
    normalised = fields.flag("qk_layernorm", True)
    reading = _read(
        fields,
        HF_PERSIMMON,
        norm=norm,
        ffn=plain_ffn(fields),
        share=0.5,
        head_norms=(head_norm, head_norm) if normalised else None,
        qkv_bias=True,
        out_bias=True,
    )
    return replace(reading, axes={"g": heads, "d": dim // heads})


def read_stablelm(fields: Fields, tensors: Tensors) -> Reading:
    """Read a StableLM configuration (Bellagente et al. 2024)."""
    sizes, eps = grouped_heads(fields), fields.number("layer_norm_eps")
    counts, head_norms = (sizes["num_heads"], sizes["num_kv_heads"]), None
    if normalised := fields.flag("qk_layernorm", False):
        options = {"dim": sizes["head_dim"], "eps": eps}
        head_norms = tuple(Part("head_layer_norm", {"num_heads": n, **options}) for n in counts)
    norm = Part("layer_norm", {"eps": eps})
    parallel = fields.flag("use_parallel_residual", False)
    return _read(
        fields,
        hf_stablelm(*counts) if normalised else HF_NEMOTRON,
        qkv_bias=fields.flag("use_qkv_bias", False),
        norm=norm,
        share=0.25,
        head_norms=head_norms,
        arrangement="parallel_shared_norm" if parallel else "pre",
    )


def read_exaone4(fields: Fields, tensors: Tensors) -> Reading:
    """Read an Exaone 4 configuration (LG AI Research 2025).

    With windows in some layers, the other layers have no rotary positions (NoPE).
    """
    num_layers, sizes = fields.layers("num_hidden_layers"), grouped_heads(fields)
    window = fields.size("sliding_window", default=None)
    pattern = fields.size("sliding_window_pattern", default=4) if window is not None else num_layers
    plain = [WINDOWED if window is not None and (n + 1) % pattern else FULL for n in range(num_layers)]
    fields.seen.add("sliding_window_pattern")
    kinds = layer_types(fields, num_layers, fields.raw("layer_types", default=plain), (FULL, WINDOWED))
    heads = Heads(fields.size("hidden_size"), **sizes, qk_norm=True, norm_eps=fields.number("rms_norm_eps"))
    position, ffn = rope(fields, sizes["head_dim"]), gated_ffn(fields)
    layers = [
        layer_spec(
            heads.mixer(
                position if window is None or kind == WINDOWED else None, window if kind == WINDOWED else None
            ),
            ffn,
            "output",
            heads.norm(),
        )
        for kind in kinds
    ]
    return decoder(fields, layers, HF_OLMO2, norm=heads.norm())


def _read(
    fields: Fields,
    layout: Layout,
    *,
    norm: Part | None = None,
    ffn: Part | None = None,
    arrangement: str = "pre",
    interleaved: bool = False,
    share: float = 1.0,
    tied: bool = False,
    head_norms: tuple[Part, ...] | None = None,
    **biases: Any,
) -> Reading:
    """Read a decoder of equal layers.

    Args:
        fields: the configuration.
        layout: layout of the tensors.
        norm: norm of the layers; None for an RMS norm.
        ffn: feed-forward network; None for a gated one without biases.
        arrangement: order of norms and residuals.
        interleaved: whether neighbouring features are rotary pairs.
        share: share of a head's features that are rotated, if the configuration says nothing.
        tied: whether the embeddings are tied, if the configuration says nothing.
        head_norms: norms of queries and of keys; None for none.
        biases: biases of attention, as in `Heads`.
    """
    sizes = grouped_heads(fields)
    heads = Heads(fields.size("hidden_size"), **sizes, **biases)
    norm = Part("rms_norm", {"eps": fields.number("rms_norm_eps")}) if norm is None else norm
    rotary_dim = int(sizes["head_dim"] * rotary_share(fields, share))
    turned: dict[str, Any] = {"interleaved": True} if interleaved else {}
    position = rope(fields, rotary_dim, head_dim=sizes["head_dim"], **turned)
    mixer = heads.mixer(position)
    if head_norms is not None:
        norms = dict(zip(("q_norm", "k_norm"), head_norms, strict=True))
        mixer = replace(mixer, arguments={**mixer.arguments, **norms})
    layer = layer_spec(mixer, gated_ffn(fields) if ffn is None else ffn, arrangement, norm)
    return decoder(fields, [layer] * fields.layers("num_hidden_layers"), layout, norm=norm, tied=tied)


HEADS = decoder_heads("score")
FAMILIES = (
    Family("hf.glm", ("glm", "glm4"), read_glm, HEADS),
    Family("hf.ernie4_5", ("ernie4_5",), read_ernie4_5, HEADS),
    Family("hf.helium", ("helium",), read_helium, HEADS),
    Family("hf.seed_oss", ("seed_oss",), read_seed_oss, HEADS),
    Family("hf.arcee", ("arcee",), read_arcee, HEADS),
    Family("hf.nemotron", ("nemotron",), read_nemotron, HEADS),
    Family("hf.nemotron", ("jais2",), read_jais2),
    Family("hf.persimmon", ("persimmon",), read_persimmon, HEADS),
    Family("hf.stablelm", ("stablelm",), read_stablelm, HEADS),
    Family("hf.exaone4", ("exaone4",), read_exaone4, HEADS),
)
