"""Readers of GPT-J and CodeGen: parallel sublayers with one norm, interleaved rotary positions, biased logits."""

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
from attention_bridge.weights.layouts.hf_gptj import BLOCKS, HF_CODEGEN, HF_GPTJ


def read_gptj(fields: Fields, tensors: Tensors) -> Reading:
    """Read a GPT-J configuration (Wang & Komatsuzaki 2021)."""
    return _reading(fields, HF_GPTJ, {})


def read_codegen(fields: Fields, tensors: Tensors) -> Reading:
    """Read a CodeGen configuration (Nijkamp et al. 2022), whose fused projections have four blocks of heads."""
    heads = fields.size("n_head", "num_attention_heads")
    if heads % BLOCKS:
        raise CheckpointError(f"{fields.source} must have an n_head that {BLOCKS} divides, got {heads}")
    return _reading(fields, HF_CODEGEN, {"block": BLOCKS})


def _reading(fields: Fields, layout: Layout, axes: dict[str, int]) -> Reading:
    tied = fields.flag("tie_word_embeddings", False)
    dim, heads = fields.dim_and_heads(("n_embd", "hidden_size"), ("n_head", "num_attention_heads"))
    rotary_dim, head_dim = fields.size("rotary_dim"), dim // heads
    if rotary_dim % 2 or rotary_dim > head_dim:
        raise CheckpointError(
            f"{fields.source} must have an even rotary_dim of at most {head_dim}, got {rotary_dim}"
        )
    fields.size("n_positions", "max_position_embeddings", default=None)
    sizes: dict[str, Any] = {"head_dim": head_dim, "rotary_dim": rotary_dim, "interleaved": True}
    spec = parallel_decoder(
        Heads(dim, heads, heads, head_dim),
        vocab_size=fields.size("vocab_size"),
        num_layers=fields.layers("n_layer", "num_hidden_layers"),
        ffn_dim=fields.size("n_inner", default=4 * dim),
        position=Part("RotaryEmbedding", sizes),
        arrangement="parallel_shared_norm",
        activation=fields.word("activation_function", words=ACTIVATIONS),
        norm_eps=fields.number("layer_norm_epsilon"),
        head_bias=True,
        tied=tied,
    )
    layout = with_tied(layout, tied, "lm_head.weight", "transformer.wte.weight")
    return Reading(language_model(spec), layout, axes)


FAMILIES = (
    Family("hf.gptj", ("gptj",), read_gptj, decoder_heads("classifier")),
    Family("hf.codegen", ("codegen",), read_codegen),
)
