"""`hf.ernie4_5_moe`: Hugging Face `Ernie4_5_MoeForCausalLM`, with separate tensors for each expert, as on disk.

`hf.ernie4_5_moe_stacked` has the experts' tensors stacked, as transformers holds them in memory.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/ernie4_5_moe/modeling_ernie4_5_moe.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Dropped
from attention_bridge.weights.layouts.hf_deepseek import HF_GLM4_MOE
from attention_bridge.weights.layouts.hf_llama import LAYER
from attention_bridge.weights.layouts.hf_qwen2_moe import with_stacked_experts
from attention_bridge.weights.rule import Rule

BIAS = LAYER + "mlp.moe_statics.e_score_correction_bias"

HF_ERNIE4_5_MOE = replace(
    HF_GLM4_MOE,
    name="hf.ernie4_5_moe",
    rules=(
        Rule(BIAS, "layers.{n}.ffn.router_bias", "1 experts -> experts"),
        *(rule for rule in HF_GLM4_MOE.rules if not rule.theirs.endswith("e_score_correction_bias")),
    ),
    spellings=(
        *HF_GLM4_MOE.spellings,
        (LAYER + "mlp.gate.moe_statics.e_score_correction_bias", BIAS),
    ),
    dropped=(
        *HF_GLM4_MOE.dropped,
        Dropped("{path}mtp_{name}.{rest}", "a layer for multi-token prediction"),
    ),
)
HF_ERNIE4_5_MOE_STACKED = with_stacked_experts(HF_ERNIE4_5_MOE)
