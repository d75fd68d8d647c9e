"""Reader of EuroBERT: Llama as an encoder, with a language modelling head of one linear layer."""

from __future__ import annotations

from dataclasses import replace

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.decoder_fields import grouped_heads
from attention_bridge.pretrained.families.decoder_reading import EMBEDDINGS, decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import Hidden, sequence_head, token_head
from attention_bridge.pretrained.families.language_heads import linear_language_heads
from attention_bridge.pretrained.families.rope import rope
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_llama import HF_EUROBERT

# Pooling of a classifier of sequences; "late" is the mean of the logits of all tokens.
POOLINGS = {"bos": "FirstToken", "mean": "MeanPooling", "late": "late"}


def read_eurobert(fields: Fields, tensors: Tensors) -> Reading:
    """Read a EuroBERT configuration (Boizard et al. 2025)."""
    fields.raw(
        "classifier_pooling", "clf_pooling", "mask_token_id", "mask_token"
    )  # of the heads and the tokenizer
    bias = fields.flag("attention_bias", False)
    heads = Heads(
        fields.size("hidden_size"),
        **grouped_heads(fields),
        qkv_bias=bias,
        out_bias=bias,
        norm_eps=fields.number("rms_norm_eps"),
    )
    ffn = gated_ffn(fields, bias=fields.flag("mlp_bias", False))
    layer = layer_spec(heads.mixer(rope(fields, heads.head_dim)), ffn, "pre", heads.norm())
    layers = [layer] * fields.layers("num_hidden_layers")
    return decoder(fields, layers, HF_EUROBERT, norm=heads.norm(), is_causal=False)


def _sequence_classifier(fields: Fields, tensors: Tensors) -> Part:
    """The classifier of sequences with its pooling."""
    found, pooling = SEQUENCES.part(fields, tensors), fields.word("classifier_pooling", words=POOLINGS)
    if pooling == "late":
        return Part("LateClassifier", found.arguments)
    return Part(found.name, {**found.arguments, "pooling": Part(pooling)})


SEQUENCES = sequence_head(
    "classifier", hidden=Hidden("dense", "gelu"), classes=("ForSequenceClassification",)
)
HEADS = (
    *linear_language_heads("lm_head", EMBEDDINGS),
    replace(SEQUENCES, part=_sequence_classifier),
    token_head("classifier", absent=("dense.weight",)),
)
FAMILIES = (Family("hf.eurobert", ("eurobert",), read_eurobert, HEADS),)
