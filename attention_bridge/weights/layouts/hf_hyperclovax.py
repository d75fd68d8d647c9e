"""`hf.hyperclovax`: Hugging Face `HyperCLOVAXForCausalLM`, named as Llama, with norms of the sublayers' outputs.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/hyperclovax/modeling_hyperclovax.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_llama import HF_LLAMA, LAYER
from attention_bridge.weights.rule import Rule

HF_HYPERCLOVAX: Layout = replace(
    HF_LLAMA,
    name="hf.hyperclovax",
    rules=(
        Rule(LAYER + "{post_norm1,post_norm2}.weight", "layers.{n}.{attention,ffn}_output_norm.weight"),
        *HF_LLAMA.rules,
    ),
)
