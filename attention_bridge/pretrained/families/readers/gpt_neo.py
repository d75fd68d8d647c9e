"""Readers of GPT-Neo, GPT-BigCode and MPT: decoders with layer norms and plain feed-forward networks."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import with_tied
from attention_bridge.pretrained.families.describe import Heads, language_model, parallel_decoder
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, MOST_LAYERS, Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_gpt_neo import HF_GPT_BIGCODE, HF_GPT_NEO, HF_MPT

EMBEDDINGS = "transformer.wte.weight"
GLOBAL, LOCAL = "global", "local"


def read_gpt_neo(fields: Fields, tensors: Tensors) -> Reading:
    """Read a GPT-Neo configuration (Black et al. 2021): scores without a factor, windows in every second layer."""
    tied = fields.flag("tie_word_embeddings", True)
    dim, heads = fields.dim_and_heads(("hidden_size",), ("num_heads", "num_attention_heads"))
    num_layers, window = fields.layers("num_layers", "num_hidden_layers"), fields.size("window_size")
    kinds = _kinds(fields, num_layers)
    fields.raw("attention_layers", "embed_dropout", "resid_dropout")
    spec = parallel_decoder(
        Heads(dim, heads, heads, dim // heads, out_bias=True, scale=1.0),
        vocab_size=fields.size("vocab_size"),
        num_layers=num_layers,
        ffn_dim=fields.size("intermediate_size", default=4 * dim),
        position=None,
        arrangement="pre",
        activation=fields.word("activation_function", words=ACTIVATIONS),
        norm_eps=fields.number("layer_norm_epsilon"),
        windows=[window if kind == LOCAL else None for kind in kinds],
        max_len=fields.size("max_position_embeddings"),
        tied=tied,
    )
    return Reading(language_model(spec), with_tied(HF_GPT_NEO, tied, "lm_head.weight", EMBEDDINGS))


def read_gpt_bigcode(fields: Fields, tensors: Tensors) -> Reading:
    """Read a GPT-BigCode configuration (Ben Allal et al. 2023), such as SantaCoder and StarCoder 1."""
    tied = fields.flag("tie_word_embeddings", True)
    dim, heads = fields.dim_and_heads(("n_embd", "hidden_size"), ("n_head", "num_attention_heads"))
    one_key = fields.flag("multi_query", True)
    for name in ("attention_softmax_in_fp32", "scale_attention_softmax_in_fp32", "num_key_value_heads"):
        fields.raw(name)
    scaled = fields.flag("scale_attn_weights", True)
    kv_heads, head_dim = 1 if one_key else heads, dim // heads
    sizes = Heads(dim, heads, kv_heads, head_dim, qkv_bias=True, out_bias=True, scale=None if scaled else 1.0)
    spec = parallel_decoder(
        sizes,
        vocab_size=fields.size("vocab_size"),
        num_layers=fields.layers("n_layer", "num_hidden_layers"),
        ffn_dim=fields.size("n_inner", default=4 * dim),
        position=None,
        arrangement="pre",
        activation=fields.word("activation_function", words=ACTIVATIONS),
        norm_eps=fields.number("layer_norm_epsilon"),
        max_len=fields.size("n_positions", "max_position_embeddings"),
        tied=tied,
    )
    layout = with_tied(HF_GPT_BIGCODE, tied, "lm_head.weight", EMBEDDINGS)
    return Reading(language_model(spec), layout, {"g": kv_heads, "d": head_dim})


def read_mpt(fields: Fields, tensors: Tensors) -> Reading:
    """Read an MPT configuration (MosaicML 2023). The reference has ALiBi and no biases whatever the fields say."""
    tied = fields.flag("tie_word_embeddings", True)
    dim, heads = fields.dim_and_heads(("d_model", "hidden_size"), ("n_heads", "num_attention_heads"))
    attention = fields.part("attn_config", {})
    clip = attention.number("clip_qkv", default=None, zero=True)
    scale = attention.number("softmax_scale", default=None)
    for name in IGNORED:
        fields.raw(name)
    spec = parallel_decoder(
        Heads(dim, heads, heads, dim // heads, scale=scale, clip=clip or None),
        vocab_size=fields.size("vocab_size"),
        num_layers=fields.layers("n_layers", "num_hidden_layers"),
        ffn_dim=4 * dim,
        position=Part("ALiBi", {"num_heads": heads}),
        arrangement="pre",
        ffn_bias=False,
        norm_eps=fields.number("layer_norm_epsilon"),
        norm_bias=False,
        tied=tied,
    )
    return Reading(language_model(spec), with_tied(HF_MPT, tied, "lm_head.weight", EMBEDDINGS))


def _kinds(fields: Fields, num_layers: int) -> list[str]:
    """The kind of each layer, from groups of kinds and their number of repetitions."""
    kinds: list[str] = []
    groups = fields.raw("attention_types", default=[[[GLOBAL, LOCAL], 12]])
    try:
        for names, times in groups:
            kinds += list(names) * min(times, MOST_LAYERS)
    except (TypeError, ValueError):
        kinds = []
    if len(kinds) != num_layers or any(kind not in (GLOBAL, LOCAL) for kind in kinds):
        raise CheckpointError(
            f"{fields.source} must have attention_types global and local for {num_layers} layers, got {shown(groups)}"
        )
    return kinds


IGNORED = (
    "emb_pdrop",
    "embedding_fraction",
    "expansion_ratio",
    "init_config",
    "init_device",
    "learned_pos_emb",
    "logit_scale",
    "max_seq_len",
    "no_bias",
    "norm_type",
    "verbose",
)
HEADS = decoder_heads("classifier")
FAMILIES = (
    Family("hf.gpt_neo", ("gpt_neo",), read_gpt_neo, HEADS),
    Family("hf.gpt_bigcode", ("gpt_bigcode",), read_gpt_bigcode, HEADS[:2]),
    Family("hf.mpt", ("mpt",), read_mpt, HEADS),
)
