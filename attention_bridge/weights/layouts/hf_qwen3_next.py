"""`hf.qwen3_next` and `hf.qwen3_5`: Hugging Face `Qwen3NextForCausalLM` and `Qwen3_5ForCausalLM`.

The query projection of an attention layer holds query and gate of each head in turn. Of a linear-attention layer, one
tensor of Qwen3-Next holds query, key, values and gates of each key head in turn, another one its rates b and a.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/qwen3_next/modeling_qwen3_next.py
"""

from dataclasses import replace

from attention_bridge.weights.joined import JoinedRule
from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.rule import Rule

LINEAR, MIXER = LAYER + "linear_attn.", "layers.{n}.attention."
EXPERTS = (
    Rule(
        LAYER + "mlp.experts.{name}.{gate,up,down}_proj.weight",
        "layers.{n}.ffn.experts.{name}.{gate,up,down}_proj.weight",
    ),
    Rule(
        LAYER + "mlp.shared_expert.{gate,up,down}_proj.weight",
        "layers.{n}.ffn.shared.{gate,up,down}_proj.weight",
    ),
    Rule(LAYER + "mlp.{gate,shared_expert_gate}.weight", "layers.{n}.ffn.{router,shared_gate}.weight"),
)
COMMON = (
    Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
    Rule(LINEAR + "{A_log,dt_bias}", MIXER + "{A_log,dt_bias}"),
    Rule(LINEAR + "{conv1d,norm,out_proj}.weight", MIXER + "{conv,norm,out_proj}.weight"),
    Rule(
        LAYER + "self_attn.q_proj.{name}",
        MIXER + "{q,gate}_proj.{name}",
        "(heads two d) ... -> two (heads d) ...",
    ),
    *EXPERTS,
    *RULES,
)

HF_QWEN3_NEXT = Layout(
    "hf.qwen3_next",
    rules=(
        JoinedRule(
            LINEAR + "in_proj_qkvz.weight",
            MIXER + "{q,k,v,z}_proj.weight",
            "key_dim, key_dim, repeats value_dim, repeats value_dim",
            blocks="key_heads",
        ),
        JoinedRule(
            LINEAR + "in_proj_ba.weight", MIXER + "{b,a}_proj.weight", "repeats, repeats", blocks="key_heads"
        ),
        *COMMON,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=(*DECODER_HEADS, Unused("mtp.{rest}", "predicts several tokens at once, not part of the model")),
)

HF_QWEN3_5 = replace(
    HF_QWEN3_NEXT,
    name="hf.qwen3_5",
    rules=(
        JoinedRule(
            LINEAR + "in_proj_qkv.weight",
            MIXER + "{q,k,v}_proj.weight",
            "key_heads key_dim, key_heads key_dim, key_heads repeats value_dim",
        ),
        Rule(LINEAR + "in_proj_{z,b,a}.weight", MIXER + "{z,b,a}_proj.weight"),
        *COMMON,
    ),
    spellings=(
        ("model.language_model.{rest}", "model.{rest}"),
        ("language_model.{rest}", "model.{rest}"),
        *SPELLINGS,
    ),
    unused=(
        *HF_QWEN3_NEXT.unused,
        *(
            Unused(f"{path}visual.{{rest}}", "reads images, not part of the text model")
            for path in ("", "model.")
        ),
    ),
)
