"""Tiny models of InternLM 3, which transformers computes with Llama's classes."""

import transformers as t
from transformers.models.internlm3.configuration_internlm3 import InternLM3Config

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ()
PLAIN = {**SIZES, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, **NONE}


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.llama", "language", t.LlamaForCausalLM, InternLM3Config, {**PLAIN, **fields})


CASES = {
    "internlm3": case(),
    "internlm3, biases, tied": case(attention_bias=True, mlp_bias=True, tie_word_embeddings=True),
    "internlm3, one key for all heads": case(num_key_value_heads=1, vocab_size=37),
    "internlm3, dynamic scaling": case(
        rope_parameters={"rope_type": "dynamic", "rope_theta": 70.0, "factor": 3.0}
    ),
}
