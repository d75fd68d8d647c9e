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
        kind: inputs and outputs: encoder, language, sequence, speech, image or contrastive.
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
