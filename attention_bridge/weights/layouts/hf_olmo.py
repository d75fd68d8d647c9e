"""`hf.olmo2`: Hugging Face `Olmo2ForCausalLM` and `Olmo3ForCausalLM`, with norms of the sublayers' outputs.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/olmo2/modeling_olmo2.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.rule import Rule

HF_OLMO2 = Layout(
    "hf.olmo2",
    rules=(
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
