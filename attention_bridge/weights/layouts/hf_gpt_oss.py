"""`hf.gpt_oss`: Hugging Face `GptOssForCausalLM`, with the tensors of all experts of a layer in one.

Gate and up alternate, and the experts' weights are (in, out).

https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt_oss/modeling_gpt_oss.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.layouts.hf_qwen2_moe import EXPERTS, OURS
from attention_bridge.weights.rule import Rule

HF_GPT_OSS = Layout(
    "hf.gpt_oss",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        Rule(LAYER + "self_attn.sinks", "layers.{n}.attention.sinks"),
        Rule(LAYER + "mlp.router.{name}", "layers.{n}.ffn.router.{name}"),
        Rule(
            EXPERTS + "gate_up_proj",
            OURS + "{gate,up}_proj.weight",
            "columns (rows two) -> two rows columns",
        ),
        Rule(EXPERTS + "gate_up_proj_bias", OURS + "{gate,up}_proj.bias", "(rows two) -> two rows"),
        Rule(EXPERTS + "down_proj", OURS + "down_proj.weight", "columns rows -> rows columns"),
        Rule(EXPERTS + "down_proj_bias", OURS + "down_proj.bias"),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
    stacked="experts",
)
