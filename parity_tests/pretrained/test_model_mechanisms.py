"""Mechanisms of each model type, as `show` prints them, against the modules of the models that are built."""

from attention_bridge.pretrained.families import FAMILIES
from attention_bridge.pretrained.families.mechanisms import mechanisms, model_types
from parity_tests.helpers.model_mechanisms import table

SAME = {
    "kimi_k2",
    "RefinedWeb",
    "RefinedWebModel",
    "meta.llama",
    "timm.vit",
    "gguf.llama",
    "gguf.qwen2",
    "gguf.qwen3",
}


def test_mechanisms_of_model_types_are_the_modules_of_their_models():
    assert mechanisms() == table()


def test_model_types_of_all_families_are_listed():
    alike = {
        "gemma3n",
        "kimi_k2",
        "llava_next",
        "qwen2_5_vl_text",
        "qwen2_vl_text",
        "qwen3_5_moe",
        "qwen3_vl_text",
    }
    assert mechanisms().keys() | SAME | alike == FAMILIES.keys() - {
        "attention_bridge"
    }  # read as another type
    assert {"gemma3", "gemma3_text", "qwen3"} <= set(model_types("QKNormAttention"))
    assert model_types("LuongAttention") == []
