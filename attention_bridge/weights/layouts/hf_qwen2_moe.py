"""`hf.qwen2_moe`: Hugging Face `Qwen2MoeForCausalLM`, with separate tensors for each expert, as on disk.

Qwen3-MoE and OLMoE have the same names. `hf.qwen2_moe_stacked` has the experts' tensors stacked, as transformers holds
them in memory.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen2_moe/modeling_qwen2_moe.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.rule import Rule

EXPERTS = LAYER + "mlp.experts.{name}."
OURS = "layers.{n}.ffn.experts.{name}."
STACKED_EXPERTS = (
    Rule(EXPERTS + "gate_up_proj", OURS + "{gate,up}_proj.weight", "(two rows) columns -> two rows columns"),
    Rule(EXPERTS + "down_proj", OURS + "down_proj.weight"),
)
MIXTURE = (
    Rule(LAYER + "mlp.gate.weight", "layers.{n}.ffn.router.weight"),
    Rule(EXPERTS + "{gate,up,down}_proj.weight", OURS + "{gate,up,down}_proj.weight"),
    Rule(
        LAYER + "mlp.shared_expert.{gate,up,down}_proj.weight",
        "layers.{n}.ffn.shared.{gate,up,down}_proj.weight",
    ),
    Rule(LAYER + "mlp.shared_expert_gate.weight", "layers.{n}.ffn.shared_gate.weight"),
)


def with_stacked_experts(layout: Layout) -> Layout:
    """The layout with the tensors of all experts of a layer in one, as transformers holds them in memory."""
    name = f"{layout.name}_stacked"
    return replace(layout, name=name, rules=(*STACKED_EXPERTS, *layout.rules), stacked="experts")


HF_QWEN2_MOE = Layout(
    "hf.qwen2_moe",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        *MIXTURE,
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
HF_QWEN2_MOE_STACKED = with_stacked_experts(HF_QWEN2_MOE)
