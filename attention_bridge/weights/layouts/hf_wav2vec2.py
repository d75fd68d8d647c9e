"""`hf.wav2vec2`: Hugging Face `Wav2Vec2Model`, `HubertModel` and others, with the norms of four arrangements.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/wav2vec2/modeling_wav2vec2.py
"""

from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.rule import Rule

LAYER = "encoder.layers.{n}."
CONV = "feature_extractor.conv_layers.{n}."
POSITIONS = "encoder.pos_conv_embed.conv."
PREFIXES = ("wav2vec2", "hubert", "unispeech", "unispeech_sat")

RULES = (
    Rule("masked_spec_embed", "masked_frame"),
    Rule(CONV + "conv.{name}", "convs.{n}.conv.{name}"),
    Rule("feature_projection.layer_norm.{name}", "frame_norm.{name}"),
    Rule("feature_projection.projection.{name}", "frame_proj.{name}"),
    Rule(POSITIONS + "bias", "position_embedding.bias"),
    Rule(POSITIONS + "parametrizations.weight.original0", "position_embedding.length", "1 1 taps -> taps"),
    Rule(POSITIONS + "parametrizations.weight.original1", "position_embedding.direction"),
    Rule(LAYER + "attention.{q,k,v,out}_proj.{name}", "layers.{n}.attention.{q,k,v,out}_proj.{name}"),
    Rule(LAYER + "feed_forward.{intermediate,output}_dense.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
    Rule(LAYER + "{layer_norm,final_layer_norm}.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
)


def wav2vec2(*, norm_first: bool, norm_each: bool) -> Layout:
    """The layout of a model.

    Args:
        norm_first: whether norms precede the sublayers, so that the last one is the model's final norm.
        norm_each: whether every convolution has a norm, and not only the first one.
    """
    conv_norm = (
        Rule(CONV + "layer_norm.{name}", "convs.{n}.norm.{name}")
        if norm_each
        else Rule(
            "feature_extractor.conv_layers.0.layer_norm.{weight,bias}", "convs.0.channel_norm.{gain,offset}"
        )
    )
    norm = Rule("encoder.layer_norm.{name}", "final_norm.{name}" if norm_first else "embedding_norm.{name}")
    return Layout(
        "hf.wav2vec2",
        rules=(conv_norm, norm, *RULES),
        spellings=(
            *((f"{prefix}.{{rest}}", "{rest}") for prefix in PREFIXES),
            (POSITIONS + "weight_g", POSITIONS + "parametrizations.weight.original0"),
            (POSITIONS + "weight_v", POSITIONS + "parametrizations.weight.original1"),
        ),
        unused=(
            *(
                Unused(name, "a task head, not part of the encoder")
                for name in (
                    "lm_head.{rest}",
                    "projector.{rest}",
                    "classifier.{rest}",
                    "tdnn.{rest}",
                    "objective.weight",
                    "feature_extractor.weight",
                    "feature_extractor.bias",
                )
            ),
            *(
                Unused(name, "a part of pretraining, not of the encoder")
                for name in (
                    "quantizer.{rest}",
                    "project_{rest}",
                    "dropout_features.{rest}",
                    "label_embeddings_concat",
                    "ctc_proj.{rest}",
                    "speaker_proj.{rest}",
                    "layer_norm_for_extract.{rest}",
                )
            ),
        ),
    )


HF_WAV2VEC2 = wav2vec2(norm_first=False, norm_each=False)
