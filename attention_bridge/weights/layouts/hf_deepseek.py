"""`hf.deepseek_v3`: Hugging Face `DeepseekV3ForCausalLM`, with separate tensors for each expert, as on disk.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/deepseek_v3/modeling_deepseek_v3.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, SPELLINGS
from attention_bridge.weights.rule import Rule

LAYER = "model.layers.{n}."

HF_DEEPSEEK_V3 = Layout(
    "hf.deepseek_v3",
    rules=(
        Rule("model.embed_tokens.weight", "token_embedding.weight"),
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        Rule(
            LAYER + "self_attn.{q,q_a,q_b,kv_b,o}_proj.weight",
            "layers.{n}.attention.{q,q_a,q_b,kv_b,out}_proj.weight",
        ),
        Rule(LAYER + "self_attn.kv_a_proj_with_mqa.weight", "layers.{n}.attention.kv_a_proj.weight"),
        Rule(LAYER + "self_attn.{q_a,kv_a}_layernorm.weight", "layers.{n}.attention.{q_a,kv_a}_norm.weight"),
        Rule(LAYER + "mlp.{gate,up,down}_proj.weight", "layers.{n}.ffn.{gate,up,down}_proj.weight"),
        Rule(
            LAYER + "mlp.experts.{name}.{gate,up,down}_proj.weight",
            "layers.{n}.ffn.experts.{name}.{gate,up,down}_proj.weight",
        ),
        Rule(
            LAYER + "mlp.shared_experts.{gate,up,down}_proj.weight",
            "layers.{n}.ffn.shared.{gate,up,down}_proj.weight",
        ),
        Rule(LAYER + "mlp.gate.weight", "layers.{n}.ffn.router.weight"),
        Rule(LAYER + "mlp.gate.e_score_correction_bias", "layers.{n}.ffn.router_bias"),
        Rule("model.norm.weight", "final_norm.weight"),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
