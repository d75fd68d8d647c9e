"""`hf.nemotron`: Hugging Face `NemotronForCausalLM` and `StableLmForCausalLM`, named as Llama, with layer norms.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/nemotron/modeling_nemotron.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.rule import Rule

HF_NEMOTRON = Layout(
    "hf.nemotron",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        Rule("model.norm.{name}", "final_norm.{name}"),
        *(rule for rule in RULES if rule.theirs != "model.norm.weight"),
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
