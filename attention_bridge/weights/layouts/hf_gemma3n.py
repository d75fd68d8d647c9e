"""`hf.gemma3n`: Hugging Face `Gemma3nForCausalLM`, the text model of Gemma 3n.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/gemma3n/modeling_gemma3n.py
"""

from dataclasses import replace

from attention_bridge.weights.layouts.hf_gemma4 import HF_GEMMA4, LAYER_INPUTS
from attention_bridge.weights.layouts.hf_llama import HF_GEMMA, LAYER
from attention_bridge.weights.rule import Rule

STREAMS = (
    Rule("model.altup_projections.{name}.weight", "streams.split.{name}.proj.weight"),
    Rule("model.altup_unembed_projections.{name}.weight", "streams.merge.{name}.proj.weight"),
    Rule(
        LAYER + "altup.{modality_router,router_norm,prediction_coefs,correction_coefs}.weight",
        "layers.{n}.updates.{router,router_norm,prediction_proj,correction_proj}.weight",
    ),
    Rule(LAYER + "altup.correct_output_scale", "layers.{n}.updates.stream_scale"),
    Rule(
        LAYER + "laurel.{linear_left,linear_right,post_laurel_norm}.weight",
        "layers.{n}.laurel.{left_proj,right_proj,norm}.weight",
    ),
)

HF_GEMMA3N = replace(
    HF_GEMMA,
    name="hf.gemma3n",
    rules=(*HF_GEMMA.rules, *LAYER_INPUTS, *STREAMS),
    spellings=(
        *HF_GEMMA4.spellings,
        *(
            (f"{part}.{{rest}}", f"model.{part}.{{rest}}")
            for part in ("altup_projections", "altup_unembed_projections")
        ),
    ),
    unused=(),
)
