"""Readers of decoders from fairseq: OPT, XGLM, BioGPT. Their positions start at 2."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import with_tied
from attention_bridge.pretrained.families.describe import Heads, language_model, parallel_decoder
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_opt import HF_BIOGPT, HF_OPT, HF_XGLM

FIRST = 2  # row of the first position


def read_opt(fields: Fields, tensors: Tensors) -> Reading:
    """Read an OPT configuration (Zhang et al. 2022)."""
    fields.only("layer_norm_elementwise_affine", True)
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",))
    bias, first = fields.flag("enable_bias", True), fields.flag("do_layer_norm_before", True)
    token_dim = fields.size("word_embed_proj_dim", default=dim)
    others: dict[str, Any] = {} if token_dim == dim else {"token_dim": token_dim}
    if fields.flag("_remove_final_layer_norm", False) or not first:
        others["norm"] = None
    return _reading(
        fields,
        Heads(dim, heads, heads, dim // heads, qkv_bias=bias, out_bias=bias),
        (HF_OPT, "model.decoder.embed_tokens.weight", "lm_head.weight"),
        num_layers=fields.layers("num_hidden_layers"),
        ffn_dim=fields.size("ffn_dim"),
        ffn_bias=bias,
        arrangement="pre" if first else "post",
        activation=fields.word("activation_function", words=ACTIVATIONS),
        max_len=fields.size("max_position_embeddings"),
        **others,
    )


def read_xglm(fields: Fields, tensors: Tensors) -> Reading:
    """Read an XGLM configuration (Lin et al. 2021), with sinusoidal positions."""
    dim, heads = fields.dim_and_heads(("d_model", "hidden_size"), ("attention_heads", "num_attention_heads"))
    padding = fields.raw("pad_token_id")
    if padding not in (None, 0, 1):  # the reference clears the row of this number in its table of positions
        raise CheckpointError(f"{fields.source} must have a pad_token_id of 0, 1 or null, got {padding!r}")
    fields.size("max_position_embeddings", default=None)
    return _reading(
        fields,
        Heads(dim, heads, heads, dim // heads, qkv_bias=True, out_bias=True),
        (HF_XGLM, "model.embed_tokens.weight", "lm_head.weight"),
        num_layers=fields.layers("num_layers", "num_hidden_layers"),
        ffn_dim=fields.size("ffn_dim"),
        arrangement="pre",
        activation=fields.word("activation_function", words=ACTIVATIONS),
        embed_scale=dim**0.5 if fields.flag("scale_embedding", True) else 1.0,
        embedding_position=sinusoidal(fields, "d_model", dim),
    )


def sinusoidal(fields: Fields, name: str, dim: int) -> Part:
    """Sinusoidal positions with the frequencies 10000^(-i / (pairs - 1)), with pairs - 1 instead of pairs."""
    if dim % 2 or dim < 4:
        raise CheckpointError(f"{fields.source} must have an even {name} of at least 4, got {dim}")
    base = 10000.0 ** ((dim / 2) / (dim / 2 - 1))
    return Part("SinusoidalEmbedding", {"base": base, "interleaved": False})


def read_biogpt(fields: Fields, tensors: Tensors) -> Reading:
    """Read a BioGPT configuration (Luo et al. 2022)."""
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",))
    fields.raw("layer_norm_eps")  # the reference does not read it
    return _reading(
        fields,
        Heads(dim, heads, heads, dim // heads, qkv_bias=True, out_bias=True),
        (HF_BIOGPT, "biogpt.embed_tokens.weight", "output_projection.weight"),
        num_layers=fields.layers("num_hidden_layers"),
        ffn_dim=fields.size("intermediate_size"),
        arrangement="pre",
        activation=fields.word("hidden_act", words=ACTIVATIONS),
        max_len=fields.size("max_position_embeddings"),
        embed_scale=dim**0.5 if fields.flag("scale_embedding", True) else 1.0,
    )


def _reading(fields: Fields, heads: Heads, names: tuple[Layout, str, str], **others: Any) -> Reading:
    layout, embedding, head = names
    tied = fields.flag("tie_word_embeddings", True)
    fields.raw("layerdrop")
    spec = parallel_decoder(
        heads,
        vocab_size=fields.size("vocab_size"),
        position=None,
        first_position=FIRST,
        tied=tied,
        **others,
    )
    return Reading(language_model(spec), with_tied(layout, tied, head, embedding))


HEADS = decoder_heads("classifier")
FAMILIES = (
    Family("hf.opt", ("opt",), read_opt, HEADS),
    Family("hf.xglm", ("xglm",), read_xglm),
    Family("hf.biogpt", ("biogpt",), read_biogpt, HEADS),
)
