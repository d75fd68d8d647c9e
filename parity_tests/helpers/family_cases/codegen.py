"""CodeGen with shares of rotated features, tied and untied; four blocks of heads."""

import transformers as t

from parity_tests.helpers.family_cases.case import Case
from parity_tests.helpers.family_cases.gptj import GPTJ

MODULES = ("codegen",)


def case(**fields: object) -> Case:
    """A CodeGen model with these fields."""
    given = {**GPTJ, "n_embd": 32, "n_head": 8, **fields}
    return Case("hf.codegen", "language", t.CodeGenForCausalLM, t.CodeGenConfig, given)


CASES = {
    "codegen": case(),
    "codegen, tied": case(tie_word_embeddings=True),
    "codegen with all features rotated": case(n_head=4, rotary_dim=8),
    "codegen with wide layers": case(n_inner=None, layer_norm_epsilon=0.01),
    "codegen of another activation": case(activation_function="silu", rotary_dim=2),
    "codegen with twelve heads, odd vocabulary": case(n_embd=48, n_head=12, vocab_size=37, n_layer=3),
}
