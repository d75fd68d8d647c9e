"""`hf.mixtral`: Hugging Face `MixtralForCausalLM`, with separate tensors for each expert, as on disk.

With stacked experts, as transformers holds them in memory, it has the names of `hf.qwen2_moe_stacked`.
`hf.minimax_m2` and `hf.minimax_m2_stacked` have a bias of the routing, too.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/mixtral/modeling_mixtral.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.layouts.hf_qwen2_moe import HF_QWEN2_MOE_STACKED
from attention_bridge.weights.rule import Rule

MIXTURE = LAYER + "block_sparse_moe."
MIXTRAL_EXPERTS = (
    Rule(MIXTURE + "gate.weight", "layers.{n}.ffn.router.weight"),
    Rule(
        MIXTURE + "experts.{name}.{w1,w3,w2}.weight",
        "layers.{n}.ffn.experts.{name}.{gate,up,down}_proj.weight",
    ),
)

HF_MIXTRAL = Layout(
    "hf.mixtral",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        *MIXTRAL_EXPERTS,
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
ROUTER_BIAS = "layers.{n}.ffn.router_bias"
HF_MINIMAX_M2 = replace(
    HF_MIXTRAL,
    name="hf.minimax_m2",
    rules=(Rule(MIXTURE + "e_score_correction_bias", ROUTER_BIAS), *HF_MIXTRAL.rules),
)
HF_MINIMAX_M2_STACKED = replace(
    HF_QWEN2_MOE_STACKED,
    name="hf.minimax_m2_stacked",
    rules=(Rule(LAYER + "mlp.e_score_correction_bias", ROUTER_BIAS), *HF_QWEN2_MOE_STACKED.rules),
)
