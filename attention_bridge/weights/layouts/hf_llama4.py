"""`hf.llama4`: Hugging Face `Llama4ForCausalLM`, the text model of Llama 4, with all experts of a layer in one tensor.

The experts' weights are (in, out).

https://github.com/huggingface/transformers/blob/main/src/transformers/models/llama4/modeling_llama4.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.layouts.hf_qwen2_moe import OURS
from attention_bridge.weights.rule import Rule

MIXTURE = LAYER + "feed_forward."

HF_LLAMA4 = Layout(
    "hf.llama4",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        Rule(MIXTURE + "router.weight", "layers.{n}.ffn.router.weight"),
        Rule(
            MIXTURE + "experts.{name}.gate_up_proj",
            OURS + "{gate,up}_proj.weight",
            "columns (two rows) -> two rows columns",
        ),
        Rule(MIXTURE + "experts.{name}.down_proj", OURS + "down_proj.weight", "columns rows -> rows columns"),
        Rule(
            MIXTURE + "shared_expert.{gate,up,down}_proj.weight",
            "layers.{n}.ffn.shared.{gate,up,down}_proj.weight",
        ),
        Rule(MIXTURE + "{gate,up,down}_proj.weight", "layers.{n}.ffn.{gate,up,down}_proj.weight"),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
    stacked="experts",
)
