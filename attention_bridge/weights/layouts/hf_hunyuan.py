"""`hf.hunyuan`: Hugging Face `HunYuanDenseV1ForCausalLM`, named as Llama, with norms of queries and keys.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/hunyuan_v1_dense/modeling_hunyuan_v1_dense.py
"""

from dataclasses import replace

from attention_bridge.weights.layouts.hf_llama import HF_LLAMA, LAYER
from attention_bridge.weights.rule import Rule

HF_HUNYUAN = replace(
    HF_LLAMA,
    name="hf.hunyuan",
    rules=(
        Rule(LAYER + "self_attn.{query,key}_layernorm.weight", "layers.{n}.attention.{q,k}_norm.weight"),
        *HF_LLAMA.rules,
    ),
)
