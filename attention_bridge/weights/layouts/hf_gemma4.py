"""`hf.gemma4`: Hugging Face `Gemma4ForCausalLM`, the text model of Gemma 4.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/gemma4/modeling_gemma4.py
"""

from dataclasses import replace

from attention_bridge.weights.layouts.hf_llama import HF_GEMMA, LAYER, SPELLINGS
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
