"""`hf.phimoe`: Hugging Face `PhimoeForCausalLM` (Phi-3.5-MoE), with separate tensors for each expert, as on disk.

`hf.phimoe_stacked` has the experts' tensors stacked, as transformers holds them in memory.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/phimoe/modeling_phimoe.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.layouts.hf_mixtral import MIXTRAL_EXPERTS
from attention_bridge.weights.layouts.hf_qwen2_moe import STACKED_EXPERTS
from attention_bridge.weights.rule import Rule

COMMON = (
    Rule(LAYER + "{input,post_attention}_layernorm.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
    Rule("model.norm.{name}", "final_norm.{name}"),
    Rule("lm_head.bias", "head_bias"),
    *(rule for rule in RULES if rule.theirs != "model.norm.weight"),
)

HF_PHIMOE = Layout(
    "hf.phimoe",
    rules=(*MIXTRAL_EXPERTS, *COMMON),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
HF_PHIMOE_STACKED = replace(
    HF_PHIMOE,
    name="hf.phimoe_stacked",
    rules=(*STACKED_EXPERTS, Rule(LAYER + "mlp.router.weight", "layers.{n}.ffn.router.weight"), *COMMON),
    stacked="experts",
)
