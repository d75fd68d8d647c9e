"""Tiny models of PaliGemma, whose text model is read."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case

MODULES = ()
TEXT = {
    **SIZES,
    "hidden_size": 24,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    **NONE,
}
IMAGES = {
    "model_type": "siglip_vision_model",
    "hidden_size": 12,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 10,
    "image_size": 8,
    "patch_size": 4,
}
SECOND = {"model_type": "gemma2", "sliding_window": 4, "query_pre_attn_scalar": 9, "num_key_value_heads": 2}


def case(layout="hf.llama", text=(), **fields):
    """A PaliGemma around a text model with these fields changed."""
    given = {"text_config": {"model_type": "gemma", **TEXT, **dict(text)}, "vision_config": IMAGES}
    given |= {"projection_dim": 24, "hidden_size": 24, "image_token_index": 900, "vocab_size": 31, **fields}
    return Case(layout, "language", t.PaliGemmaForConditionalGeneration, t.PaliGemmaConfig, given)


CASES = {
    "paligemma": case(),
    "paligemma, biases, eps": case(text={"attention_bias": True, "rms_norm_eps": 0.1}),
    "paligemma, untied, three layers": case(text={"num_hidden_layers": 3}, tie_word_embeddings=False),
    "paligemma 2": case("hf.gemma", SECOND),
    "paligemma 2, softcaps": case(
        "hf.gemma", {**SECOND, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0, "head_dim": 6}
    ),
    "paligemma 2, odd layers": case(
        "hf.gemma", {**SECOND, "layer_types": ["full_attention", "sliding_attention"], "vocab_size": 37}
    ),
}
