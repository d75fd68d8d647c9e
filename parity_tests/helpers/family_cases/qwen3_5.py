"""Tiny models of Qwen3.5: the text model, dense and with experts, alone and inside a multimodal model."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, Case
from parity_tests.helpers.family_cases.qwen3_next import PLAIN as NEXT

MODULES = ()
EXPERTS = {
    name: NEXT[name]
    for name in (
        "num_experts", "num_experts_per_tok", "moe_intermediate_size", "shared_expert_intermediate_size",
    )
}  # fmt: skip
PLAIN = {name: value for name, value in NEXT.items() if name not in EXPERTS}
IMAGES = {
    "depth": 1,
    "hidden_size": 8,
    "num_heads": 2,
    "intermediate_size": 10,
    "patch_size": 4,
    "out_hidden_size": 20,
}
SECTIONS = {"mrope_section": [2, 1, 1], "mrope_interleaved": True}


def case(**fields):
    """A dense text model with these fields changed."""
    return Case("hf.qwen3_5", "language", t.Qwen3_5ForCausalLM, t.Qwen3_5TextConfig, {**PLAIN, **fields})


CASES = {
    "qwen3_5": case(),
    "qwen3_5, linear layers only": case(layer_types=None, vocab_size=37, tie_word_embeddings=True),
    "qwen3_5, four layers, biases": case(
        num_hidden_layers=4, layer_types=None, attention_bias=True, linear_num_key_heads=4, rms_norm_eps=0.1
    ),
    "qwen3_5, one key for all heads, sections": case(
        num_key_value_heads=1,
        linear_num_key_heads=1,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": 50.0,
            "partial_rotary_factor": 1.0,
            **SECTIONS,
        },
    ),
    "qwen3_5, experts": Case(
        "hf.qwen3_5",
        "language",
        t.Qwen3_5MoeForCausalLM,
        t.Qwen3_5MoeTextConfig,
        {**PLAIN, **EXPERTS, "linear_conv_kernel_dim": 2},
    ),
    "qwen3_5, in a multimodal model": Case(
        "hf.qwen3_5",
        "language",
        t.Qwen3_5ForConditionalGeneration,
        t.Qwen3_5Config,
        {"text_config": PLAIN, "vision_config": IMAGES, **NONE},
    ),
}
