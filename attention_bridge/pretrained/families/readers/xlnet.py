"""Reader of XLNet: a post-norm encoder with scores of distances and segments (Yang et al. 2019).

The model reads a text in both directions. Two-stream attention to a permutation of the tokens, which pretraining and
generation need, and memories of earlier texts are not part of it.
"""

from __future__ import annotations

from dataclasses import replace

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.decoder_fields import with_tied
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.heads import question_head, sequence_head, token_head
from attention_bridge.pretrained.families.language_heads import linear_language_heads
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_xlnet import HF_XLNET

WORDS = "word_embedding.weight"
TYPES = 4  # text, pair, class token, padding
# Fields of the memory, of beams of answers, of the masks of a causal model, and of dropout.
UNREAD = (
    "mem_len", "reuse_len", "use_mems_eval", "use_mems_train", "use_mems", "start_n_top", "end_n_top", "same_length",
    "summary_last_dropout", "untie_r",
)  # fmt: skip


def read_xlnet(fields: Fields, tensors: Tensors) -> Reading:
    """Read an XLNet configuration; other directions than both, and clamped distances, are refused."""
    fields.raw(*UNREAD)
    fields.only("attn_type", "bi")
    fields.only("bi_data", False)
    fields.only("clamp_len", -1, 0)
    dim, num_heads = fields.dim_and_heads(("d_model", "hidden_size"), ("n_head", "num_attention_heads"))
    sizes = {"num_heads": num_heads, "head_dim": fields.size("d_head", default=dim // num_heads)}
    if dim % 2 or sizes["head_dim"] * num_heads != dim:
        raise CheckpointError(
            f"{fields.source} must have an even d_model of n_head * d_head, "
            f"got {dim}, {num_heads} and {sizes['head_dim']}"
        )
    norm = Part("layer_norm", {"eps": fields.number("layer_norm_eps")})
    position = Part("XLNetEmbedding", sizes)
    mixer = Part("MultiHeadSelfAttention", {"num_heads": num_heads, "bias": False, "position": position})
    activation = fields.word("ff_activation", words=ACTIVATIONS)
    ffn = Part("FeedForward", {"ffn_dim": fields.size("d_inner"), "activation": activation})
    tied = fields.flag("tie_word_embeddings", True)
    spec = model_spec(
        fields.size("vocab_size", "n_token"),
        dim,
        [layer_spec(mixer, ffn, "post", norm)] * fields.layers("n_layer", "num_hidden_layers"),
        norm=None,
        tied=tied,
        is_causal=False,
        relative_types=TYPES,
        sees_itself=True,
    )
    return Reading(language_model(spec), with_tied(HF_XLNET, tied, "lm_loss.weight", WORDS))


def classifier(fields: Fields, tensors: Tensors) -> Part:
    """Describe the head for sequences and multiple choice, whose summary must be the last position."""
    fields.only("summary_type", "last", "cls_index")  # without an index, the last position
    fields.only("summary_use_proj", True)
    activation = fields.word("summary_activation", words=ACTIVATIONS)
    found = SEQUENCES.part(fields, tensors)
    return Part(found.name, {**found.arguments, "activation": activation})


SEQUENCES = sequence_head(
    "logits_proj", hidden="sequence_summary.summary", activation="tanh", pooling="LastPosition"
)
HEADS = (
    *linear_language_heads("lm_loss", WORDS, classes=("LMHeadModel",))[:1],
    replace(SEQUENCES, part=classifier),
    token_head("classifier"),
    question_head(),
)
FAMILIES = (Family("hf.xlnet", ("xlnet",), read_xlnet, HEADS),)
