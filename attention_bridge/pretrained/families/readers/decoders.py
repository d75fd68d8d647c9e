"""Readers of decoders with layer norms: GPT-2, GPT-NeoX, BLOOM, Falcon."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import untied, with_tied
from attention_bridge.pretrained.families.describe import Heads, language_model, parallel_decoder
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import parameters, rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_bloom import HF_BLOOM
from attention_bridge.weights.layouts.hf_falcon import HF_FALCON, HF_FALCON_TWO_NORMS
from attention_bridge.weights.layouts.hf_gpt2 import HF_GPT2
from attention_bridge.weights.layouts.hf_gpt_neox import HF_GPT_NEOX


def read_gpt2(fields: Fields, tensors: Tensors) -> Reading:
    """Read a GPT-2 configuration (Radford et al. 2019)."""
    fields.only("scale_attn_weights", True)
    fields.only("scale_attn_by_inverse_layer_idx", False)
    tied = fields.flag("tie_word_embeddings", True)
    fields.raw("reorder_and_upcast_attn")
    dim, heads = fields.dim_and_heads(("n_embd", "hidden_size"), ("n_head", "num_attention_heads"))
    return Reading(
        model(
            "Decoder",
            vocab_size=fields.size("vocab_size"),
            embed_dim=dim,
            num_heads=heads,
            num_layers=fields.layers("n_layer", "num_hidden_layers"),
            ffn_dim=fields.size("n_inner", default=4 * dim),
            max_len=fields.size("n_positions", "max_position_embeddings"),
            activation=fields.word("activation_function", words=ACTIVATIONS),
            norm_eps=fields.number("layer_norm_epsilon"),
            tied=tied,
        ),
        HF_GPT2 if tied else untied(HF_GPT2, "lm_head.weight"),
    )


def read_gpt_neox(fields: Fields, tensors: Tensors) -> Reading:
    """Read a GPT-NeoX configuration (Black et al. 2022)."""
    fields.only("attention_bias", True)
    tied = fields.flag("tie_word_embeddings", False)
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",))
    share = parameters(fields).number(
        "partial_rotary_factor", default=fields.number("rotary_pct", default=0.25)
    )
    if share > 1.0:
        raise CheckpointError(f"{fields.source} must have a rotary_pct of at most 1, got {share}")
    rotary_dim = int(dim // heads * share)
    position = _plain_rope(fields, rotary_dim, dim // heads)
    fields.size("max_position_embeddings", default=None)
    return _reading(
        parallel_decoder(
            Heads(dim, heads, heads, dim // heads, qkv_bias=True, out_bias=True),
            vocab_size=fields.size("vocab_size"),
            num_layers=fields.layers("num_hidden_layers"),
            ffn_dim=fields.size("intermediate_size"),
            position=position,
            arrangement="parallel" if fields.flag("use_parallel_residual", True) else "pre",
            activation=fields.word("hidden_act", words=ACTIVATIONS),
            norm_eps=fields.number("layer_norm_eps"),
            tied=tied,
        ),
        with_tied(HF_GPT_NEOX, tied, "embed_out.weight", "gpt_neox.embed_in.weight"),
        heads,
        dim // heads,
    )


def read_bloom(fields: Fields, tensors: Tensors) -> Reading:
    """Read a BLOOM configuration (Le Scao et al. 2022)."""
    fields.only("apply_residual_connection_post_layernorm", False)
    tied = fields.flag("tie_word_embeddings", True)
    fields.raw("slow_but_exact", "masked_softmax_fusion", "skip_bias_add", "skip_bias_add_qkv", "seq_length")
    fields.raw("offset_alibi", "attention_softmax_in_fp32", "bias_dropout_fusion")
    dim, heads = fields.dim_and_heads(("hidden_size", "n_embed"), ("n_head", "num_attention_heads"))
    return _reading(
        parallel_decoder(
            Heads(dim, heads, heads, dim // heads, qkv_bias=True, out_bias=True),
            vocab_size=fields.size("vocab_size"),
            num_layers=fields.layers("n_layer", "num_hidden_layers"),
            ffn_dim=fields.size("n_inner", default=4 * dim),
            position=Part("ALiBi", {"num_heads": heads}),
            arrangement="pre",
            activation="gelu_tanh",
            norm_eps=fields.number("layer_norm_epsilon"),
            embedding_norm=True,
            tied=tied,
        ),
        with_tied(HF_BLOOM, tied, "lm_head.weight", "transformer.word_embeddings.weight"),
        heads,
        dim // heads,
    )


def read_falcon(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Falcon configuration with rotary positions and parallel sublayers (Almazrouei et al. 2023)."""
    fields.only("alibi", False)
    fields.only("apply_residual_connection_post_layernorm", False)
    fields.only("parallel_attn", True)
    fields.only("bias", False)
    tied = fields.flag("tie_word_embeddings", True)
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads", "n_head"))
    new = fields.flag("new_decoder_architecture", False)
    one_key = fields.flag("multi_query", True)
    kv_heads = fields.size("num_kv_heads", "n_head_kv", default=heads)
    kv_heads = kv_heads if new else 1 if one_key else heads
    two_norms = fields.size("num_ln_in_parallel_attn", default=2, most=2) == 2 and new
    layout = HF_FALCON_TWO_NORMS if two_norms else HF_FALCON
    position = _plain_rope(fields, dim // heads, dim // heads)
    fields.size("max_position_embeddings", default=None)
    return _reading(
        parallel_decoder(
            Heads(dim, heads, kv_heads, dim // heads),
            vocab_size=fields.size("vocab_size"),
            num_layers=fields.layers("num_hidden_layers", "n_layer"),
            ffn_dim=fields.size("ffn_hidden_size", default=4 * dim),
            position=position,
            arrangement="parallel" if two_norms else "parallel_shared_norm",
            activation=fields.word("activation", words=ACTIVATIONS, default="gelu"),
            ffn_bias=False,
            norm_eps=fields.number("layer_norm_epsilon"),
            tied=tied,
        ),
        with_tied(layout, tied, "lm_head.weight", "transformer.word_embeddings.weight"),
        kv_heads,
        dim // heads,
    )


def _plain_rope(fields: Fields, rotary_dim: int, head_dim: int) -> Part:
    """A rotary embedding without scaling of positions."""
    found = rope(fields, rotary_dim, head_dim=head_dim)
    if found.arguments.keys() & {"frequencies", "ntk_factor"}:
        raise CheckpointError(f"{fields.source} must have a rope_type default, got one that scales positions")
    return found


def _reading(spec: Part, layout: Layout, groups: int, head_dim: int) -> Reading:
    return Reading(language_model(spec), layout, {"g": groups, "d": head_dim})


HEADS = decoder_heads("classifier")
FAMILIES = (
    Family("hf.gpt2", ("gpt2",), read_gpt2, HEADS),
    Family("hf.gpt_neox", ("gpt_neox",), read_gpt_neox, HEADS),
    Family("hf.bloom", ("bloom",), read_bloom, HEADS),
    Family("hf.falcon", ("falcon", "RefinedWeb", "RefinedWebModel"), read_falcon, HEADS),
)
