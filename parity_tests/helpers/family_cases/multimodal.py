"""Tiny multimodal models, whose text models are read: LLaVA, Mistral 3, Qwen2-VL, Qwen2.5-VL, Qwen3-VL, Gemma 4."""

import transformers as t

from parity_tests.helpers.family_cases.case import NONE, SIZES, Case
from parity_tests.helpers.family_cases.gemma4 import EXPERTS as GEMMA4_EXPERTS
from parity_tests.helpers.family_cases.gemma4 import PLAIN as GEMMA4
from parity_tests.helpers.family_cases.ministral3 import YARN

MODULES = ()
TEXT = {**SIZES, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, **NONE}
IMAGES = {
    "hidden_size": 12,
    "num_attention_heads": 2,
    "intermediate_size": 10,
    "image_size": 8,
    "patch_size": 4,
}
ONE = {**IMAGES, "num_hidden_layers": 2}
NO_TOKEN = {
    "image_token_id": 900,
    "video_token_id": 901,
    "vision_start_token_id": 902,
    "vision_end_token_id": 903,
}
AXES = {"rope_type": "default", "rope_theta": 50.0, "mrope_section": [1, 1, 1]}
SEEN = {
    "depth": 1,
    "hidden_size": 12,
    "num_heads": 2,
    "intermediate_size": 10,
    "out_hidden_size": 24,
    "patch_size": 4,
}


def llava(kind, config, text, **fields):
    """A LLaVA or Mistral 3 around a text model."""
    given = {"text_config": {**TEXT, **text}, "image_token_index": 900, **fields}
    return Case("hf.llama", "language", kind, config, given)


def qwen(kind, config, images, text, **fields):
    """A Qwen with images around a text model."""
    given = {"text_config": {**TEXT, "rope_parameters": AXES, **text}, "vision_config": {**SEEN, **images}}
    return Case("hf.llama", "language", kind, config, {**given, **NO_TOKEN, **fields})


CLIP = {"vision_config": {"model_type": "clip_vision_model", **ONE}}
PIXTRAL = {"vision_config": {"model_type": "pixtral", "head_dim": 6, **ONE}}
DEEP = {"deepstack_visual_indexes": [0], "num_position_embeddings": 4}
GEMMA4_WITH_IMAGES = {
    "vision_config": {**ONE, "num_key_value_heads": 2, "head_dim": 8, "position_embedding_size": 4},
    "audio_config": None,
    "image_token_id": 900,
    "video_token_id": 901,
    "audio_token_id": 902,
}
CASES = {
    "llava": llava(t.LlavaForConditionalGeneration, t.LlavaConfig, {"model_type": "llama"}, **CLIP),
    "llava, qwen2, tied": llava(
        t.LlavaForConditionalGeneration,
        t.LlavaConfig,
        {"model_type": "qwen2"},
        tie_word_embeddings=True,
        **CLIP,
    ),
    "mistral3, windows": llava(
        t.Mistral3ForConditionalGeneration,
        t.Mistral3Config,
        {"model_type": "mistral", "sliding_window": 4, "head_dim": 8},
        tie_word_embeddings=False,
        **PIXTRAL,
    ),
    "mistral3, ministral3": llava(
        t.Mistral3ForConditionalGeneration,
        t.Mistral3Config,
        {"head_dim": 8, "max_position_embeddings": 12, "model_type": "ministral3", "rope_parameters": YARN},
        tie_word_embeddings=False,
        **PIXTRAL,
    ),
    "qwen2_vl": qwen(
        t.Qwen2VLForConditionalGeneration,
        t.Qwen2VLConfig,
        {"embed_dim": 12, "mlp_ratio": 1},
        {"vocab_size": 37},
    ),
    "qwen2_5_vl, windows, one key": qwen(
        t.Qwen2_5_VLForConditionalGeneration,
        t.Qwen2_5_VLConfig,
        {},
        {"num_key_value_heads": 1, "use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1},
        tie_word_embeddings=True,
    ),
    "qwen3_vl, odd heads, biases": qwen(
        t.Qwen3VLForConditionalGeneration,
        t.Qwen3VLConfig,
        DEEP,
        {
            "head_dim": 8,
            "attention_bias": True,
            "rms_norm_eps": 0.1,
            "rope_parameters": {**AXES, "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        },
    ),
    "gemma4, experts with images": Case(
        "hf.gemma4_experts",
        "language",
        t.Gemma4ForConditionalGeneration,
        t.Gemma4Config,
        {**GEMMA4_WITH_IMAGES, "text_config": {**GEMMA4, **GEMMA4_EXPERTS, "hidden_size_per_layer_input": 0}},
    ),
    "gemma4 with images": Case(
        "hf.gemma4",
        "language",
        t.Gemma4ForConditionalGeneration,
        t.Gemma4Config,
        {**GEMMA4_WITH_IMAGES, "text_config": {**GEMMA4, "num_kv_shared_layers": 2}},
    ),
}
