"""`hf.glm` and `hf.glm4`: Hugging Face `GlmForCausalLM` and `Glm4ForCausalLM`, with gate and up in one tensor.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/glm4/modeling_glm4.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.rule import Rule

GATE_AND_UP = Rule(
    LAYER + "mlp.gate_up_proj.weight",
    "layers.{n}.ffn.{gate,up}_proj.weight",
    "(two rows) columns -> two rows columns",
)

HF_GLM = Layout(
    "hf.glm",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        GATE_AND_UP,
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)

HF_GLM4 = Layout(
    "hf.glm4",
    rules=(
        Rule(
            LAYER + "{input,post_attention}_layernorm.weight",
            "layers.{n}.{attention,ffn}_norm.weight",
        ),
        Rule(
            LAYER + "post_{self_attn,mlp}_layernorm.weight",
            "layers.{n}.{attention,ffn}_output_norm.weight",
        ),
        GATE_AND_UP,
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
