"""`hf.apertus`: Hugging Face `ApertusForCausalLM`, named as Llama, with a learned activation.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/apertus/modeling_apertus.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.rule import Rule

HF_APERTUS = Layout(
    "hf.apertus",
    rules=(
        Rule(LAYER + "{attention,feedforward}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        Rule(
            LAYER + "mlp.act_fn.{alpha_p,alpha_n,beta,eps}", "layers.{n}.ffn.{alpha_p,alpha_n,beta,epsilon}"
        ),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
