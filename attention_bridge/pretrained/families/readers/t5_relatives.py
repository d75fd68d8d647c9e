"""Readers of T5 and its relatives: T5 1.0 and 1.1, ByT5, mT5, UMT5."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import with_tied
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import FEATURES, token_head
from attention_bridge.pretrained.families.tasks import has_only
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_t5 import T5, UMT5

# T5's names of feed-forward networks: whether they are gated, and the activation.
PROJECTIONS = {
    "relu": (False, "relu"),
    "gated-gelu": (True, "gelu_tanh"),
    "gated-silu": (True, "silu"),
    "gated-relu": (True, "relu"),
    "gelu": (False, "gelu"),
    "silu": (False, "silu"),
}


def read_t5(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of T5 1.0 or 1.1, or of ByT5 (Raffel et al. 2020)."""
    tied = fields.flag("tie_word_embeddings", True)
    scaled = fields.flag("scale_decoder_outputs", tied)
    # The reference ties the head of a file without one, even if the configuration says otherwise.
    tied = tied or (tensors.has_embeddings("shared.weight") and not tensors.has_head("lm_head.weight"))
    return _read(fields, tensors, tied=tied, scaled=scaled)


def read_mt5(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of mT5 (Xue et al. 2020), whose head has its own weight if the file has it."""
    fields.raw("tie_word_embeddings")  # the reference takes it as true
    return _read(fields, tensors, tied=True, scaled=False)


def read_umt5(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of UMT5 (Chung et al. 2023), with relative positions in each layer."""
    fields.raw("tie_word_embeddings")  # the reference takes it as true
    return _read(fields, tensors, tied=True, scaled=True, shared_position=False)


def _read(
    fields: Fields, tensors: Tensors, *, tied: bool, scaled: bool, shared_position: bool = True
) -> Reading:
    fields.only("is_encoder_decoder", True, False)
    fields.only("is_decoder", False)
    fields.raw("dense_act_fn", "is_gated_act")
    fields.size("n_positions", default=None)  # training length; relative positions have no limit
    gated, activation = fields.word("feed_forward_proj", words=PROJECTIONS, default=(False, "relu"))
    sizes: dict[str, Any] = {
        "vocab_size": fields.size("vocab_size"),
        "embed_dim": fields.size("d_model", "hidden_size"),
        "num_heads": fields.size("num_heads", "num_attention_heads"),
        "head_dim": fields.size("d_kv", "head_dim"),
        "num_encoder_layers": fields.layers("num_layers", "num_hidden_layers"),
        "num_decoder_layers": 0,
        "ffn_dim": fields.size("d_ff"),
        "activation": activation,
        "gated": gated,
        "norm_eps": fields.number("layer_norm_epsilon"),
        "num_buckets": fields.size("relative_attention_num_buckets"),
        "max_distance": fields.size("relative_attention_max_distance", default=128),
    }
    sizes["num_decoder_layers"] = fields.layers("num_decoder_layers", default=sizes["num_encoder_layers"])
    layouts = T5 if shared_position else UMT5
    alone = has_only(tensors, "encoder.", "decoder.") or tensors.starts_with("backbone.")
    if fields.task == FEATURES or alone:
        return Reading(_encoder(sizes, shared_position), layouts[gated, False])
    if not shared_position:
        sizes["shared_position"] = False
    return Reading(
        model(
            "RelativeEncoderDecoder",
            **sizes,
            tied=tied,
            logit_scale=sizes["embed_dim"] ** -0.5 if scaled else 1.0,
        ),
        with_tied(layouts[gated, True], tied, "lm_head.weight", "shared.weight"),
    )


def _encoder(sizes: dict[str, Any], shared_position: bool) -> Part:
    """The encoder alone: pre-norm layers with relative position biases."""
    heads, norm = sizes["num_heads"], Part("rms_norm", {"eps": sizes["norm_eps"]})
    buckets = {"num_heads": heads, "num_buckets": sizes["num_buckets"], "max_distance": sizes["max_distance"]}
    position = Part("T5Bias", buckets)
    attention = {"num_heads": heads, "num_kv_heads": heads, "head_dim": sizes["head_dim"], "bias": False}
    own = {} if shared_position else {"position": position}
    ffn = {"ffn_dim": sizes["ffn_dim"], "activation": sizes["activation"], "bias": False}
    layer = layer_spec(
        Part("GroupedQueryAttention", {**attention, "scale": 1.0, **own}),
        Part("GatedFeedForward" if sizes["gated"] else "FeedForward", ffn),
        "pre",
        norm,
    )
    spec = model_spec(
        sizes["vocab_size"],
        sizes["embed_dim"],
        [layer] * sizes["num_encoder_layers"],
        norm=norm,
        tied=True,
        is_causal=False,
        **({"position": position} if shared_position else {}),
    )
    return language_model(spec)


HEADS = (token_head("classifier"),)
FAMILIES = (
    Family("hf.t5", ("t5",), read_t5, HEADS),
    Family("hf.mt5", ("mt5",), read_mt5, HEADS),
    Family("hf.umt5", ("umt5",), read_umt5, HEADS),
)
