"""Readers of encoders of sound: wav2vec 2.0, HuBERT, UniSpeech."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.describe import layer_spec
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import SOUNDS, SPEECH, Hidden, sequence_head, token_head
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_wav2vec2 import wav2vec2

PRETRAINING = (
    "codevector_dim", "contrastive_logits_temperature", "ctc_loss_reduction", "ctc_zero_infinity",
    "diversity_loss_weight", "feat_proj_dropout", "feat_quantizer_dropout", "final_dropout", "layerdrop",
    "num_clusters", "num_codevector_groups", "num_codevectors_per_group", "num_ctc_classes", "num_negatives",
    "proj_codevector_dim", "replace_prob", "tdnn_dilation", "tdnn_dim", "tdnn_kernel", "vocab_size",
    "xvector_output_dim",
)  # fmt: skip
ADAPTER = ("adapter_kernel_size", "adapter_stride", "num_adapter_layers", "output_hidden_size")


def read_waveforms(fields: Fields, tensors: Tensors) -> Reading:
    """Read a configuration of wav2vec 2.0 (Baevski et al. 2020), HuBERT (Hsu et al. 2021) or UniSpeech (Wang 2021)."""
    fields.only("add_adapter", False)
    fields.only("adapter_attn_dim", None)
    fields.only("conv_pos_batch_norm", False)
    fields.only("use_weighted_layer_sum", False)
    for name in (*PRETRAINING, *ADAPTER):
        fields.raw(name)
    dim, num_heads = fields.dim_and_heads(("hidden_size",), ("num_attention_heads",))
    eps, norm_first = fields.number("layer_norm_eps"), fields.flag("do_stable_layer_norm", False)
    norm_each = fields.word("feat_extract_norm", words={"group": False, "layer": True})
    norm = Part("layer_norm", {"eps": eps})
    layer = layer_spec(
        Part("MultiHeadSelfAttention", {"num_heads": num_heads}),
        Part(
            "FeedForward",
            {
                "ffn_dim": fields.size("intermediate_size"),
                "activation": fields.word("hidden_act", words=ACTIVATIONS),
            },
        ),
        "pre" if norm_first else "post",
        norm,
    )
    count = fields.layers("num_feat_extract_layers", default=len(_sizes(fields, "conv_dim")))
    groups = fields.size("num_conv_pos_embedding_groups")
    fields.divides("hidden_size", dim, "num_conv_pos_embedding_groups", groups)
    return Reading(
        model(
            "WaveformEncoder",
            "WaveformSpec",
            embed_dim=dim,
            layers=(layer,) * fields.layers("num_hidden_layers"),
            conv_dims=_sizes(fields, "conv_dim", count),
            conv_kernels=_sizes(fields, "conv_kernel", count),
            conv_strides=_sizes(fields, "conv_stride", count),
            conv_bias=fields.flag("conv_bias", False),
            conv_norm="each" if norm_each else "first",
            conv_activation=fields.word("feat_extract_activation", words=ACTIVATIONS),
            frame_norm_eps=eps if fields.flag("feat_proj_layer_norm", True) else None,
            position_kernel=fields.size("num_conv_pos_embeddings"),
            position_groups=groups,
            embedding_norm=None if norm_first else norm,
            norm=norm if norm_first else None,
            masked_frame=tensors.ends_with("masked_spec_embed") or tensors.ends_with("masked_frame"),
        ),
        wav2vec2(norm_first=norm_first, norm_each=norm_each),
    )


def _sizes(fields: Fields, name: str, count: int | None = None) -> tuple[int, ...]:
    """A positive whole number for each convolution."""
    given = fields.raw(name)
    right = isinstance(given, list | tuple) and all(type(each) is int and 0 < each < 2**31 for each in given)
    if not right or not given or count not in (None, len(given)):
        number = "one" if count is None else f"{count}, of num_feat_extract_layers,"
        raise CheckpointError(
            f"{fields.source} must have a list {name} of positive whole numbers, {number} per convolution, "
            f"got {shown(given)}"
        )
    return tuple(given)


def _projected(fields: Fields) -> dict[str, Any]:
    """The arguments of a hidden layer without an activation."""
    return {"activation": None, "hidden_dim": fields.size("classifier_proj_size", default=256)}


SPEAKERS = "objective.weight"  # of x-vectors, a head that the mirrors do not have
CLIPS = sequence_head(
    "classifier",
    hidden=Hidden("projector", options=_projected),
    pooling="MeanPooling",
    task=SOUNDS,
    classes=("ForSequenceClassification",),
)
HEADS = (
    token_head("lm_head", task=SPEECH, classes=("ForCTC",)),
    replace(CLIPS, absent=(SPEAKERS,)),
    token_head(
        "classifier",
        task=SOUNDS,
        classes=("ForAudioFrameClassification",),
        absent=("projector.weight", SPEAKERS),
    ),
)
FAMILIES = (
    Family("hf.wav2vec2", ("wav2vec2",), read_waveforms, HEADS),
    Family("hf.hubert", ("hubert",), read_waveforms, HEADS),
    Family("hf.unispeech", ("unispeech", "unispeech-sat"), read_waveforms, HEADS),
)
