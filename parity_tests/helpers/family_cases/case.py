"""A model of a checkpoint family for the tests: class and configuration of transformers."""

from dataclasses import dataclass, field
from typing import Any

LENGTH = 7  # tokens
VOCAB = 31


@dataclass(frozen=True)
class Case:
    """A model of a checkpoint family.

    Attributes:
        layout: name of its tensor layout.
        kind: inputs and outputs: encoder, language, sequence, speech, sound, image, pyramid or contrastive.
        model: transformers' model class.
        config: transformers' configuration class.
        fields: arguments of the configuration.
        padding: the padding token of the inputs.
        has_maps: whether the reference returns attention maps of all pairs of tokens.
    """

    layout: str
    kind: str
    model: Any
    config: Any
    fields: dict[str, Any] = field(default_factory=dict)
    padding: int = 0
    has_maps: bool = True


SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
}
IMAGE = {**{k: v for k, v in SIZES.items() if k != "vocab_size"}, "image_size": (8, 12), "patch_size": (4, 3)}
NONE = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
STACKS = {
    "vocab_size": VOCAB,
    "d_model": 12,
    "encoder_layers": 2,
    "decoder_layers": 3,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 22,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
    "forced_eos_token_id": None,
}
SOUND = {
    **{k: v for k, v in SIZES.items() if k != "vocab_size"},
    "conv_dim": [7, 5],
    "conv_kernel": [5, 3],
    "conv_stride": [3, 2],
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "apply_spec_augment": False,
    "vocab_size": 11,
    "num_codevectors_per_group": 4,
    "codevector_dim": 6,
    "proj_codevector_dim": 6,
}


def sound_cases(name: str, model: Any, config: Any) -> dict[str, Case]:
    """The cases of an encoder of sound like wav2vec 2.0."""
    changes: dict[str, dict[str, Any]] = {
        name: {},
        f"{name}, norms first, one per convolution": {
            "do_stable_layer_norm": True,
            "feat_extract_norm": "layer",
            "conv_bias": True,
        },
        f"{name}, three convolutions, odd positions": {
            "conv_dim": [6, 5, 8],
            "conv_kernel": [4, 3, 2],
            "conv_stride": [2, 2, 1],
            "num_feat_extract_layers": 3,
            "num_conv_pos_embeddings": 5,
            "num_conv_pos_embedding_groups": 3,
        },
        f"{name}, other activations, eps": {
            "feat_extract_activation": "silu",
            "hidden_act": "gelu_new",
            "layer_norm_eps": 0.1,
        },
    }
    return {
        each: Case("hf.wav2vec2", "sound", model, config, {**SOUND, **fields})
        for each, fields in changes.items()
    }
