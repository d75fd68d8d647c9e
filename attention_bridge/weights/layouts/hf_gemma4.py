"""`hf.gemma4`: Hugging Face `Gemma4ForCausalLM`, the text model of Gemma 4; `hf.gemma4_experts` has experts.

All experts of a layer are in one tensor.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/gemma4/modeling_gemma4.py
"""

from dataclasses import replace

from attention_bridge.weights.layouts.hf_llama import HF_GEMMA, LAYER, SPELLINGS
from attention_bridge.weights.layouts.hf_qwen2_moe import OURS
from attention_bridge.weights.rule import Rule

LAYER_INPUTS = (
    Rule("model.embed_tokens_per_layer.weight", "layer_embedding.token_embedding.weight"),
    Rule("model.per_layer_model_projection.weight", "layer_embedding.context_proj.weight"),
    Rule("model.per_layer_projection_norm.weight", "layer_embedding.context_norm.weight"),
    Rule(LAYER + "per_layer_input_gate.weight", "layers.{n}.token_input.gate_proj.weight"),
    Rule(LAYER + "per_layer_projection.weight", "layers.{n}.token_input.out_proj.weight"),
    Rule(LAYER + "post_per_layer_input_norm.weight", "layers.{n}.token_input.norm.weight"),
)

HF_GEMMA4 = replace(
    HF_GEMMA,
    name="hf.gemma4",
    rules=(*HF_GEMMA.rules, *LAYER_INPUTS, Rule(LAYER + "layer_scalar", "layers.{n}.output_scale")),
    spellings=(
        *SPELLINGS,
        *(
            (f"{part}.{{rest}}", f"model.{part}.{{rest}}")
            for part in ("embed_tokens_per_layer", "per_layer_model_projection", "per_layer_projection_norm")
        ),
    ),
    unused=(),
)

FFN = "layers.{n}.ffn."
EXPERTS = (
    Rule(LAYER + "mlp.{gate,up,down}_proj.weight", FFN + "dense.{gate,up,down}_proj.weight"),
    Rule(
        LAYER + "{pre_feedforward_layernorm,post_feedforward_layernorm_1,pre_feedforward_layernorm_2}.weight",
        FFN + "{dense_norm,dense_output_norm,experts_norm}.weight",
    ),
    Rule(LAYER + "post_feedforward_layernorm_2.weight", FFN + "experts_output_norm.weight"),
    Rule(
        LAYER + "router.{proj.weight,scale,per_expert_scale}",
        FFN + "router.{proj.weight,input_scale,expert_scale}",
    ),
    Rule(
        LAYER + "experts.{name}.gate_up_proj",
        OURS + "{gate,up}_proj.weight",
        "(two rows) columns -> two rows columns",
    ),
    Rule(LAYER + "experts.{name}.down_proj", OURS + "down_proj.weight"),
)
HF_GEMMA4_EXPERTS = replace(
    HF_GEMMA4, name="hf.gemma4_experts", rules=(*EXPERTS, *HF_GEMMA4.rules), stacked="experts"
)
