"""Numbers in the names of modules, and words that mean the same in different code."""

from __future__ import annotations

import re

# Words for the same part of a model, by meaning. A word is in one row only.
MEANINGS = {
    "query": ("q", "query", "wq"),
    "key": ("k", "key", "wk"),
    "value": ("v", "value", "wv"),
    "fused": ("qkv", "wqkv", "query_key_value"),
    "out": ("o", "out", "wo"),
    "gate": ("gate",),
    "up": ("up", "fc1", "lin1", "linear1", "fc_in", "dense_h_to_4h"),
    "down": ("down", "fc2", "lin2", "linear2", "fc_out", "dense_4h_to_h"),
    "last norm": ("ln_f", "final_norm", "final_layer_norm", "norm_f", "final_layernorm"),
    "attention": ("attn", "attention", "self_attn", "self_attention", "mha"),
    "cross attention": ("cross_attn", "cross_attention", "encoder_attn", "encoder_decoder_attention"),
    "mlp": ("mlp", "ffn", "feed_forward", "feedforward"),
    "attention norm": (
        "ln_1", "ln1", "norm1", "norm_1", "attn_norm", "attention_norm", "ln_attn", "norm_attn", "layer_norm1",
    ),
    "mlp norm": ("ln_2", "ln2", "norm2", "norm_2", "mlp_norm", "ffn_norm", "ln_mlp", "norm_mlp", "layer_norm2"),
    "tokens": ("wte", "tok_embed", "token_embedding", "embed_tokens", "tok_emb", "word_embeddings", "token_emb"),
    "positions": ("wpe", "pos_embed", "position_embedding", "pos_emb", "position_embeddings", "embed_positions"),
    "head": ("head", "lm_head", "unembed"),
}  # fmt: skip
MEANING = {word: meaning for meaning, words in MEANINGS.items() for word in words}
NOISE = re.compile(r"^(to|c|w)_|_(proj|projection|layer|linear|dense|module)$")


def meaning(name: str) -> str | None:
    """The meaning of a module's name; None if it says none that is known.

    >>> meaning("q_proj") == meaning("to_q") == meaning("Query")
    True
    """
    word = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    while word not in MEANING:
        shorter = NOISE.sub("", word)
        if shorter == word:
            return None
        word = shorter
    return MEANING[word]


def number(name: str) -> int | None:
    """The number at the end of a name; None for none.

    >>> number("conv2"), number("ln")
    (2, None)
    """
    found = re.search(r"\d+$", name)
    return None if found is None else int(found.group())
