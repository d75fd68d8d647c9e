"""Readers of encoder-decoders: BART, Whisper."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.tasks import has_only
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_bart import HF_BART, HF_BART_DECODER
from attention_bridge.weights.layouts.hf_whisper import HF_WHISPER, HF_WHISPER_DECODER


def _decoder_alone(
    fields: Fields, *, arrangement: str, max_len: int, layout: Layout, **others: Any
) -> Reading:
    """A decoder without its encoder, as a language model with layer norms and learned positions."""
    dim, num_heads = fields.dim_and_heads(("d_model",), ("decoder_attention_heads",))
    fields.layers("encoder_layers", default=1)
    fields.raw("encoder_ffn_dim", "encoder_attention_heads")
    ffn = {
        "ffn_dim": fields.size("decoder_ffn_dim"),
        "activation": fields.word("activation_function", words=ACTIVATIONS),
    }
    norm = Part("layer_norm", {"eps": 1e-5})
    layer = layer_spec(
        Part("CausalSelfAttention", {"num_heads": num_heads}), Part("FeedForward", ffn), arrangement, norm
    )
    spec = model_spec(
        fields.size("vocab_size"),
        dim,
        [layer] * fields.layers("decoder_layers"),
        norm=norm if arrangement == "pre" else None,
        max_len=max_len,
        tied=True,
        **others,
    )
    return Reading(language_model(spec), layout)


def read_bart(fields: Fields, tensors: Tensors) -> Reading:
    """Read a BART configuration (Lewis et al. 2019)."""
    fields.only("is_encoder_decoder", True, False)
    fields.raw("is_decoder")
    fields.only("add_final_layer_norm", False)
    fields.only("normalize_before", False)
    fields.only("normalize_embedding", True)
    fields.only("static_position_embeddings", False)
    fields.only("tie_word_embeddings", True)
    fields.raw("num_hidden_layers", "add_bias_logits", "extra_pos_embeddings", "do_blenderbot_90_layernorm")
    fields.raw("classif_dropout")
    dim = fields.size("d_model")
    scale = dim**0.5 if fields.flag("scale_embedding", False) else 1.0
    if has_only(tensors, "decoder.", "encoder.") or tensors.starts_with("layers."):
        return _decoder_alone(
            fields,
            arrangement="post",
            max_len=fields.size("max_position_embeddings"),
            layout=HF_BART_DECODER,
            first_position=2,
            embedding_norm=Part("layer_norm", {"eps": 1e-5}),
            embed_scale=scale,
        )
    return Reading(
        model(
            "EncoderDecoder",
            vocab_size=fields.size("vocab_size"),
            embed_dim=dim,
            encoder=_stack(fields, "encoder", dim),
            decoder=_stack(fields, "decoder", dim),
            max_len=fields.size("max_position_embeddings"),
            first_position=2,
            activation=fields.word("activation_function", words=ACTIVATIONS),
            embed_scale=scale,
        ),
        HF_BART,
    )


def read_whisper(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Whisper configuration (Radford et al. 2022)."""
    fields.only("is_encoder_decoder", True, False)
    fields.raw("is_decoder")
    fields.only("tie_word_embeddings", True)
    fields.raw("num_hidden_layers")
    fields.flag("scale_embedding", False)  # the reference reads this field and never uses it
    dim = fields.size("d_model")
    if has_only(tensors, "decoder.", "encoder.") or tensors.starts_with("layers."):
        fields.raw("num_mel_bins", "max_source_positions")
        return _decoder_alone(
            fields,
            arrangement="pre",
            max_len=fields.size("max_target_positions"),
            layout=HF_WHISPER_DECODER,
        )
    decoder = _stack(fields, "decoder", dim)
    encoder_alone = has_only(tensors, "encoder.", "decoder.") or (
        tensors.starts_with("encoder_layers.") and not tensors.starts_with("decoder_layers.")
    )
    return Reading(
        model(
            "SpeechTransformer",
            "SpeechConfig",
            vocab_size=fields.size("vocab_size"),
            num_features=fields.size("num_mel_bins"),
            embed_dim=dim,
            encoder=_stack(fields, "encoder", dim),
            decoder=None if encoder_alone else decoder,
            max_frames=fields.size("max_source_positions"),
            max_len=fields.size("max_target_positions"),
            activation=fields.word("activation_function", words=ACTIVATIONS),
        ),
        HF_WHISPER,
    )


def _stack(fields: Fields, stack: str, dim: int) -> Part:
    heads = fields.size(f"{stack}_attention_heads")
    fields.divides("d_model", dim, f"{stack}_attention_heads", heads)
    return Part(
        "StackConfig",
        {
            "num_layers": fields.layers(f"{stack}_layers"),
            "num_heads": heads,
            "ffn_dim": fields.size(f"{stack}_ffn_dim"),
        },
    )


FAMILIES = (
    Family("hf.bart", ("bart",), read_bart),
    Family("hf.whisper", ("whisper",), read_whisper),
)
