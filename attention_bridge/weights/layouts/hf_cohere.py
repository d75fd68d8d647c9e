"""`hf.cohere`: Hugging Face `CohereForCausalLM` and `Cohere2ForCausalLM`, Llama's names with one norm per layer.

The norms of queries and keys have a scale for each head.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/cohere/modeling_cohere.py
"""

from dataclasses import replace

from attention_bridge.weights.layouts.hf_llama import HF_LLAMA, LAYER
from attention_bridge.weights.rule import Rule

HF_COHERE = replace(
    HF_LLAMA,
    name="hf.cohere",
    rules=(
        Rule(LAYER + "self_attn.{q,k}_norm.weight", "layers.{n}.attention.{q,k}_norm.head_scale"),
        *(
            rule
            for rule in HF_LLAMA.rules
            if "post_attention" not in rule.theirs and "k}_norm" not in rule.theirs
        ),
        Rule(LAYER + "input_layernorm.weight", "layers.{n}.attention_norm.weight"),
    ),
)
