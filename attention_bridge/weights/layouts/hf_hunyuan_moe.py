"""`hf.hunyuan_moe`: Hugging Face `HunYuanMoEV1ForCausalLM`, with separate tensors for each expert, as on disk.

`hf.hunyuan_moe_stacked` has the experts' tensors stacked, as transformers holds them in memory.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/hunyuan_v1_moe/modeling_hunyuan_v1_moe.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.layouts.hf_qwen2_moe import EXPERTS, OURS, with_stacked_experts
from attention_bridge.weights.rule import Rule

HF_HUNYUAN_MOE = Layout(
    "hf.hunyuan_moe",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        Rule(LAYER + "self_attn.{query,key}_layernorm.weight", "layers.{n}.attention.{q,k}_norm.weight"),
        Rule(LAYER + "mlp.gate.wg.weight", "layers.{n}.ffn.router.weight"),
        Rule(EXPERTS + "{gate,up,down}_proj.weight", OURS + "{gate,up,down}_proj.weight"),
        Rule(
            LAYER + "mlp.shared_mlp.{gate,up,down}_proj.weight",
            "layers.{n}.ffn.shared.{gate,up,down}_proj.weight",
        ),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
HF_HUNYUAN_MOE_STACKED = with_stacked_experts(HF_HUNYUAN_MOE)
