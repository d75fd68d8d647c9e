"""Parts that the readers of decoders put together: feed-forward network, norm, and the model of its layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import with_tied
from attention_bridge.pretrained.families.describe import language_model, model_spec
from attention_bridge.pretrained.families.family import Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.weights.layout import Layout

EMBEDDINGS = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


def gated_ffn(fields: Fields, *, bias: bool = False) -> Part:
    """The gated feed-forward network of `intermediate_size` and `hidden_act`."""
    return Part(
        "GatedFeedForward",
        {
            "ffn_dim": fields.size("intermediate_size"),
            "activation": fields.word("hidden_act", words=ACTIVATIONS),
            "bias": bias,
        },
    )


def plain_ffn(fields: Fields, *, bias: bool = True) -> Part:
    """The feed-forward network of `intermediate_size` and `hidden_act`, without a gate."""
    gated = gated_ffn(fields, bias=bias)
    return Part("FeedForward", gated.arguments)


def decoder(
    fields: Fields, layers: Sequence[Part], layout: Layout, *, norm: Part, tied: bool = False, **others: Any
) -> Reading:
    """The reading of a decoder with these layers.

    Args:
        fields: the configuration, with `vocab_size`, `hidden_size` and `tie_word_embeddings`.
        layers: descriptions of the layers.
        layout: layout of the tensors, with the token embedding and the output head named as in Llama.
        norm: final norm.
        tied: whether the output head uses the embedding matrix if the configuration says nothing.
        others: further fields of `ModelSpec`.
    """
    tied = fields.flag("tie_word_embeddings", tied)
    fields.size("max_position_embeddings", default=None)  # training length
    spec = model_spec(
        fields.size("vocab_size"), fields.size("hidden_size"), layers, norm=norm, tied=tied, **others
    )
    return Reading(language_model(spec), with_tied(layout, tied, HEAD, EMBEDDINGS))
