"""Reader of Whisper."""

from __future__ import annotations

from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.readers.bart_relatives import decoder_alone, stack
from attention_bridge.pretrained.families.tasks import has_only
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_whisper import HF_WHISPER, HF_WHISPER_DECODER


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
        return decoder_alone(
            fields,
            norm_first=True,
            max_len=fields.size("max_target_positions"),
            layout=HF_WHISPER_DECODER,
        )
    decoder = stack(fields, "decoder", dim)
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
            encoder=stack(fields, "encoder", dim),
            decoder=None if encoder_alone else decoder,
            max_frames=fields.size("max_source_positions"),
            max_len=fields.size("max_target_positions"),
            activation=fields.word("activation_function", words=ACTIVATIONS),
        ),
        HF_WHISPER,
    )


FAMILIES = (Family("hf.whisper", ("whisper",), read_whisper),)
