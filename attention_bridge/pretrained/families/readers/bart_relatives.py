"""Readers of BART and its relatives: Marian, M2M-100 and NLLB, mBART, Pegasus, BlenderBot, PLBart."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.readers.fairseq import sinusoidal
from attention_bridge.pretrained.families.tasks import has_only
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_bart import HF_BART, HF_BART_BIASED, HF_BART_DECODER

NORM = Part("layer_norm", {"eps": 1e-5})
BIAS = "final_logits_bias"
SINES = Part("SinusoidalEmbedding", {"interleaved": False})


def read_bart(fields: Fields, tensors: Tensors) -> Reading:
    """Read a BART configuration (Lewis et al. 2019)."""
    fields.only("add_final_layer_norm", False)
    fields.only("normalize_before", False)
    fields.only("normalize_embedding", True)
    fields.only("static_position_embeddings", False)
    fields.raw("num_hidden_layers", "add_bias_logits", "extra_pos_embeddings", "do_blenderbot_90_layernorm")
    return _read(fields, tensors, first_position=2)


def read_mbart(fields: Fields, tensors: Tensors) -> Reading:
    """Read an mBART configuration (Liu et al. 2020), with pre-norm layers."""
    _legacy(fields)
    return _read(fields, tensors, first_position=2, norm_first=True)


def read_plbart(fields: Fields, tensors: Tensors) -> Reading:
    """Read a PLBart configuration (Ahmad et al. 2021)."""
    _legacy(fields)
    return _read(fields, tensors, first_position=2)


def read_blenderbot(fields: Fields, tensors: Tensors) -> Reading:
    """Read a BlenderBot configuration (Roller et al. 2020), with pre-norm layers."""
    _legacy(fields)
    return _read(fields, tensors, norm_first=True, embedding_norm=False)


def read_blenderbot_small(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of BlenderBot-small, whose decoder adds positions after the norm of its embeddings."""
    _legacy(fields)
    return _read(fields, tensors, positions_last=True)


def read_marian(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Marian configuration (Junczys-Dowmunt et al. 2018), with sinusoidal positions."""
    _legacy(fields)
    fields.only("share_encoder_decoder_embeddings", True)
    fields.size("decoder_vocab_size", default=None)  # of separate embeddings
    return _read(fields, tensors, embedding_norm=False, **_sines(fields, tensors))


def read_pegasus(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Pegasus configuration (Zhang et al. 2019), with sinusoidal positions and pre-norm layers."""
    _legacy(fields)
    return _read(fields, tensors, norm_first=True, embedding_norm=False, **_sines(fields, tensors))


def read_m2m_100(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of M2M-100 (Fan et al. 2020) or NLLB, whose positions do not count padding tokens."""
    _legacy(fields)
    padding = fields.whole("pad_token_id")
    return _read(
        fields,
        tensors,
        norm_first=True,
        embedding_norm=False,
        first_position=padding + 1,
        uncounted_token=padding,
        embedding_position=sinusoidal(fields, "d_model", fields.size("d_model", "hidden_size")),
    )


def _legacy(fields: Fields) -> None:
    """Fields of older configurations, which the reference does not read."""
    fields.raw(
        "add_bias_logits",
        "add_final_layer_norm",
        "do_blenderbot_90_layernorm",
        "extra_layer_norm",
        "extra_pos_embeddings",
        "force_bos_token_to_be_generated",
        "layernorm_variant",
        "normalize_before",
        "normalize_embedding",
        "num_hidden_layers",
        "static_position_embeddings",
    )


def _sines(fields: Fields, tensors: Tensors) -> dict[str, Any]:
    """Sinusoidal positions, unless the file has tables of positions, which the reference reads."""
    if tensors.ends_with("embed_positions.weight") or any("position_embedding." in name for name in tensors):
        return {}
    dim = fields.size("d_model", "hidden_size")
    if dim % 2:
        raise CheckpointError(f"{fields.source} must have an even d_model, got {dim}")
    return {"embedding_position": SINES}


def _read(
    fields: Fields,
    tensors: Tensors,
    *,
    norm_first: bool = False,
    embedding_norm: bool = True,
    positions_last: bool = False,
    **others: Any,
) -> Reading:
    """Read the fields that BART and its relatives have in common.

    Args:
        fields: the configuration.
        tensors: the checkpoint's tensors, whose names show whether there are an encoder and a bias of the logits.
        norm_first, embedding_norm: as in `EncoderDecoderConfig`.
        positions_last: whether the decoder adds positions after the norm of its embeddings.
        others: further fields of `EncoderDecoderConfig`, such as `first_position`.
    """
    fields.only("is_encoder_decoder", True, False)
    fields.raw("is_decoder")
    fields.only("tie_word_embeddings", True)
    fields.raw("classif_dropout")
    dim = fields.size("d_model", "hidden_size")
    most = fields.size("max_position_embeddings")
    others["embed_scale"] = dim**0.5 if fields.flag("scale_embedding", False) else 1.0
    if "embedding_position" not in others:
        others["max_len"] = most
    if has_only(tensors, "decoder.", "encoder.") or tensors.starts_with("layers."):
        if embedding_norm:
            others["embedding_norm"] = NORM
        if positions_last:  # the reference's decoder has no factor
            others |= {"positions_last": True, "embed_scale": 1.0}
        return decoder_alone(fields, norm_first=norm_first, layout=HF_BART_DECODER, **others)
    biased = "head_bias" in tensors or (
        BIAS in tensors and tensors.read is not None and bool(tensors.read(tensors.spelled[BIAS]).any())
    )
    for name, value, usual in (
        ("norm_first", norm_first, False),
        ("embedding_norm", embedding_norm, True),
        ("decoder_positions_last", positions_last, False),
        ("head_bias", biased, False),
    ):
        if value != usual:
            others[name] = value
    return Reading(
        model(
            "EncoderDecoder",
            vocab_size=fields.size("vocab_size"),
            embed_dim=dim,
            encoder=stack(fields, "encoder", dim),
            decoder=stack(fields, "decoder", dim),
            activation=fields.word("activation_function", words=ACTIVATIONS),
            **others,
        ),
        HF_BART_BIASED if biased else HF_BART,
    )


def decoder_alone(fields: Fields, *, norm_first: bool, layout: Layout, **others: Any) -> Reading:
    """A decoder without its encoder, as a language model with layer norms."""
    dim, num_heads = fields.dim_and_heads(("d_model",), ("decoder_attention_heads",))
    fields.layers("encoder_layers", default=1)
    fields.raw("encoder_ffn_dim", "encoder_attention_heads")
    ffn = {
        "ffn_dim": fields.size("decoder_ffn_dim"),
        "activation": fields.word("activation_function", words=ACTIVATIONS),
    }
    layer = layer_spec(
        Part("CausalSelfAttention", {"num_heads": num_heads}),
        Part("FeedForward", ffn),
        "pre" if norm_first else "post",
        NORM,
    )
    spec = model_spec(
        fields.size("vocab_size"),
        dim,
        [layer] * fields.layers("decoder_layers"),
        norm=NORM if norm_first else None,
        tied=True,
        **others,
    )
    return Reading(language_model(spec), layout)


def stack(fields: Fields, name: str, dim: int) -> Part:
    """The sizes of an encoder or a decoder."""
    heads = fields.size(f"{name}_attention_heads")
    fields.divides("d_model", dim, f"{name}_attention_heads", heads)
    sizes = {"num_layers": fields.layers(f"{name}_layers"), "num_heads": heads}
    return Part("StackConfig", {**sizes, "ffn_dim": fields.size(f"{name}_ffn_dim")})


FAMILIES = (
    Family("hf.bart", ("bart",), read_bart),
    Family("hf.mbart", ("mbart",), read_mbart),
    Family("hf.plbart", ("plbart",), read_plbart),
    Family("hf.blenderbot", ("blenderbot",), read_blenderbot),
    Family("hf.blenderbot_small", ("blenderbot-small",), read_blenderbot_small),
    Family("hf.marian", ("marian",), read_marian),
    Family("hf.pegasus", ("pegasus",), read_pegasus),
    Family("hf.m2m_100", ("m2m_100",), read_m2m_100),
)
