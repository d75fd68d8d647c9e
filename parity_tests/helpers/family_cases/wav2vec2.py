"""Tiny models of Wav2Vec2."""

import transformers as t

from parity_tests.helpers.family_cases.case import Case

MODULES = ("wav2vec2",)
WITHOUT_HEAD = ("Wav2Vec2ForXVector",)
PLAIN = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
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


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.wav2vec2", "sound", t.Wav2Vec2Model, t.Wav2Vec2Config, {**PLAIN, **fields})


CASES = {
    "wav2vec2": case(),
    "wav2vec2, norms first, one per convolution": case(
        do_stable_layer_norm=True, feat_extract_norm="layer", conv_bias=True
    ),
    "wav2vec2, three convolutions, odd positions": case(
        conv_dim=[6, 5, 8],
        conv_kernel=[4, 3, 2],
        conv_stride=[2, 2, 1],
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=5,
        num_conv_pos_embedding_groups=3,
    ),
    "wav2vec2, other activations, eps": case(
        feat_extract_activation="silu", hidden_act="gelu_new", layer_norm_eps=0.1
    ),
}
