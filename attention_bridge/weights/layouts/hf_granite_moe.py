"""`hf.granite_moe`: Hugging Face `GraniteMoeForCausalLM` and `GraniteMoeSharedForCausalLM`.

All experts of a layer are in one tensor. The rules have the names of the model in memory.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/granitemoeshared/modeling_granitemoeshared.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.layouts.hf_qwen2_moe import OURS
from attention_bridge.weights.rule import Rule

MIXTURE = LAYER + "block_sparse_moe."
ON_DISK = (
    (MIXTURE + "input_linear.weight", MIXTURE + "experts.gate_up_proj"),
    (MIXTURE + "output_linear.weight", MIXTURE + "experts.down_proj"),
    (MIXTURE + "router.layer.weight", MIXTURE + "router.weight"),
)

HF_GRANITE_MOE = Layout(
    "hf.granite_moe",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        Rule(MIXTURE + "router.weight", "layers.{n}.ffn.router.weight"),
        Rule(
            MIXTURE + "experts.{name}.gate_up_proj",
            OURS + "{gate,up}_proj.weight",
            "(two rows) columns -> two rows columns",
        ),
        Rule(MIXTURE + "experts.{name}.down_proj", OURS + "down_proj.weight"),
        Rule(
            LAYER + "shared_mlp.input_linear.weight",
            "layers.{n}.ffn.shared.{gate,up}_proj.weight",
            "(two rows) columns -> two rows columns",
        ),
        Rule(LAYER + "shared_mlp.output_linear.weight", "layers.{n}.ffn.shared.down_proj.weight"),
        *RULES,
    ),
    spellings=(*SPELLINGS, *ON_DISK),
    files=tuple((ours, theirs) for theirs, ours in ON_DISK),
    dropped=DROPPED,
    stacked="experts",
)
