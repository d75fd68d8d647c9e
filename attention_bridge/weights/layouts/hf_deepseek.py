"""`hf.deepseek_v3`: Hugging Face `DeepseekV3ForCausalLM`, with separate tensors for each expert, as on disk.

DeepSeek-V2 and Kimi K2 have the same names. `hf.deepseek_v3_stacked` has the experts' tensors stacked, as transformers
holds them in memory.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/deepseek_v3/modeling_deepseek_v3.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.layouts.hf_qwen2_moe import EXPERTS, OURS, with_stacked_experts
from attention_bridge.weights.rule import Rule

MIXTURE = (
    Rule(LAYER + "mlp.gate.weight", "layers.{n}.ffn.router.weight"),
    Rule(LAYER + "mlp.gate.e_score_correction_bias", "layers.{n}.ffn.router_bias"),
    Rule(EXPERTS + "{gate,up,down}_proj.weight", OURS + "{gate,up,down}_proj.weight"),
    Rule(
        LAYER + "mlp.shared_experts.{gate,up,down}_proj.weight",
        "layers.{n}.ffn.shared.{gate,up,down}_proj.weight",
    ),
)


def latent_attention(ours: str) -> tuple[Rule, ...]:
    """The rules of latent attention, which is the module `ours` of each layer of the mirrors' models."""
    path = f"layers.{{n}}.{ours}."
    return (
        Rule(LAYER + "self_attn.{q,q_a,q_b,kv_b,o}_proj.weight", path + "{q,q_a,q_b,kv_b,out}_proj.weight"),
        Rule(LAYER + "self_attn.kv_a_proj_with_mqa.weight", path + "kv_a_proj.weight"),
        Rule(LAYER + "self_attn.{q_a,kv_a}_layernorm.weight", path + "{q_a,kv_a}_norm.weight"),
    )


OTHERS = (
    Rule("model.embed_tokens.weight", "token_embedding.weight"),
    Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
    Rule(LAYER + "mlp.{gate,up,down}_proj.weight", "layers.{n}.ffn.{gate,up,down}_proj.weight"),
    *MIXTURE,
    Rule("model.norm.weight", "final_norm.weight"),
    Rule("lm_head.weight", "head.weight"),
)
HF_DEEPSEEK_V3 = Layout(
    "hf.deepseek_v3",
    rules=(*latent_attention("attention"), *OTHERS),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
HF_DEEPSEEK_V3_STACKED = with_stacked_experts(HF_DEEPSEEK_V3)

# With an indexer that selects keys: DeepSeek-V3.2 and GLM-5.
INDEXER = "layers.{n}.attention.indexer."
HF_DEEPSEEK_V32 = replace(
    HF_DEEPSEEK_V3,
    name="hf.deepseek_v32",
    rules=(
        *latent_attention("attention.attention"),
        Rule(LAYER + "self_attn.indexer.{wq_b,wk}.weight", INDEXER + "{q_proj,k_proj}.weight"),
        Rule(LAYER + "self_attn.indexer.weights_proj.weight", INDEXER + "weight_proj.weight"),
        Rule(LAYER + "self_attn.indexer.k_norm.{name}", INDEXER + "k_norm.{name}"),
        *OTHERS,
    ),
)
HF_DEEPSEEK_V32_STACKED = with_stacked_experts(HF_DEEPSEEK_V32)

# Grouped-query attention with such a mixture of experts: GLM-4.5 and dots.llm1.
HF_GLM4_MOE = Layout(
    "hf.glm4_moe",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        *MIXTURE,
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
HF_GLM4_MOE_STACKED = with_stacked_experts(HF_GLM4_MOE)
