"""Tiny models of GLM-5."""

import transformers as t

from parity_tests.helpers.family_cases.case import Case
from parity_tests.helpers.family_cases.deepseek_v32 import PLAIN, YARN

MODULES = ("glm_moe_dsa",)


def case(**fields):
    """A model with these fields changed."""
    return Case("hf.deepseek_v32", "language", t.GlmMoeDsaForCausalLM, t.GlmMoeDsaConfig, {**PLAIN, **fields})


CASES = {
    "glm_moe_dsa": case(),
    "glm_moe_dsa, other layers, tied": case(
        num_hidden_layers=3, mlp_layer_types=["sparse", "dense", "sparse"], tie_word_embeddings=True
    ),
    "glm_moe_dsa, yarn": case(rope_parameters=YARN, num_experts_per_tok=4),
    "glm_moe_dsa, all layers sparse": case(first_k_dense_replace=0, vocab_size=37),
    "glm_moe_dsa, all keys": case(index_topk=20, norm_topk_prob=False, rms_norm_eps=0.01),
    "glm_moe_dsa, one group": case(n_group=1, topk_group=1, n_shared_experts=1, index_topk=4),
}
