"""Tiny models of Youtu."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ("youtu",)
PLAIN = {
    **SIZES,
    "num_key_value_heads": 3,
    "kv_lora_rank": 8,
    "q_lora_rank": 9,
    "qk_rope_head_dim": 4,
    "v_head_dim": 5,
    "qk_nope_head_dim": 6,
    **NONE,
    "pad_token_id": None,  # transformers overwrites the loaded embedding of the padding token with zeros
}
YARN = {"rope_type": "yarn", "rope_theta": 100.0, "factor": 4.0, "original_max_position_embeddings": 16}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.deepseek_v3", "language", t.YoutuForCausalLM, t.YoutuConfig, {**PLAIN, **fields})


CASES = {
    "youtu": case(),
    "youtu, no latent of queries, untied": case(q_lora_rank=None, tie_word_embeddings=False),
    "youtu, rotary pairs half a head apart": case(rope_interleave=False, vocab_size=37),
    "youtu, yarn": case(rope_parameters={**YARN, "mscale": 0.7, "mscale_all_dim": 0.9}),
    "youtu, gelu, eps": case(hidden_act="gelu", rms_norm_eps=0.1, qk_rope_head_dim=8),
    "youtu, three layers, wide values": case(num_hidden_layers=3, v_head_dim=11),
}
