"""`hf.olmo2`: Hugging Face `Olmo2ForCausalLM` and `Olmo3ForCausalLM`, with norms of the sublayers' outputs.

`hf.flex_olmo` is `FlexOlmoForCausalLM`, the same with mixtures of experts; `hf.flex_olmo_stacked` has them stacked.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/olmo2/modeling_olmo2.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.layouts.hf_qwen2_moe import MIXTURE, with_stacked_experts
from attention_bridge.weights.rule import Rule

HF_OLMO2 = Layout(
    "hf.olmo2",
    rules=(
        Rule(
            LAYER + "post_{attention,feedforward}_layernorm.weight",
            "layers.{n}.{attention,ffn}_output_norm.weight",
        ),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
HF_FLEX_OLMO = replace(HF_OLMO2, name="hf.flex_olmo", rules=(*MIXTURE, *HF_OLMO2.rules))
HF_FLEX_OLMO_STACKED = with_stacked_experts(HF_FLEX_OLMO)
