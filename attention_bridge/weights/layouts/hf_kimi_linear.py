"""`hf.kimi_linear` and `hf.olmo_hybrid`: Hugging Face `KimiLinearForCausalLM` and `OlmoHybridForCausalLM`.

Both have one short convolution for queries, keys and values, in three tensors.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/kimi_linear/modeling_kimi_linear.py
https://github.com/huggingface/transformers/blob/main/src/transformers/models/olmo_hybrid/modeling_olmo_hybrid.py
"""

from attention_bridge.weights.joined import JoinedRule
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_deepseek import HF_DEEPSEEK_V3
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.rule import Rule

MIXER, EXPERTS = "layers.{n}.attention.", LAYER + "block_sparse_moe."


def convolution(path: str) -> JoinedRule:
    """The rule of the short convolution at this path of a layer."""
    return JoinedRule(path + "{q,k,v}_conv1d.weight", MIXER + "conv.weight", "keys, keys, values")


HF_KIMI_LINEAR = Layout(
    "hf.kimi_linear",
    rules=(
        convolution(LAYER + "self_attn."),
        Rule(LAYER + "self_attn.A_log", MIXER + "A_log", "1 1 heads 1 -> heads"),
        Rule(LAYER + "self_attn.dt_bias", MIXER + "dt_bias"),
        Rule(LAYER + "self_attn.o_norm.weight", MIXER + "norm.weight"),
        Rule(
            LAYER + "self_attn.{k,v,b,f_a,f_b,g_a,g_b}_proj.weight",
            MIXER + "{k,v,b,f_a,f_b,g_a,g_b}_proj.weight",
        ),
        Rule(
            EXPERTS + "experts.{name}.{w1,w3,w2}.weight",
            "layers.{n}.ffn.experts.{name}.{gate,up,down}_proj.weight",
        ),
        Rule(
            EXPERTS + "shared_experts.{gate,up,down}_proj.weight",
            "layers.{n}.ffn.shared.{gate,up,down}_proj.weight",
        ),
        Rule(EXPERTS + "gate.weight", "layers.{n}.ffn.router.weight"),
        Rule(EXPERTS + "gate.e_score_correction_bias", "layers.{n}.ffn.router_bias"),
        *HF_DEEPSEEK_V3.rules,
    ),
    spellings=(
        *SPELLINGS,
        *(
            (f"{LAYER}block_sparse_moe.{name}_proj.weight", f"{LAYER}mlp.{name}_proj.weight")
            for name in ("gate", "up", "down")
        ),
    ),
    dropped=DROPPED,
    unused=DECODER_HEADS,
)

HF_OLMO_HYBRID = Layout(
    "hf.olmo_hybrid",
    rules=(
        convolution(LAYER + "linear_attn."),
        Rule(LAYER + "linear_attn.{A_log,dt_bias}", MIXER + "{A_log,dt_bias}"),
        Rule(LAYER + "linear_attn.o_norm.weight", MIXER + "norm.weight"),
        Rule(LAYER + "linear_attn.{q,k,v,a,b,g,o}_proj.weight", MIXER + "{q,k,v,a,b,z,out}_proj.weight"),
        Rule(LAYER + "{attention,feedforward}_layer_norm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
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
