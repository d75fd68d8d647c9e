"""`hf.mamba2`, `hf.bamba`, `hf.falcon_h1`, `hf.granite_hybrid` and `hf.nemotron_h`: Mamba-2 alone or with attention.

With experts, Granite 4 has the layout `hf.granite_hybrid_moe`, with the tensors of all experts of a layer in one;
`hf.nemotron_h_stacked` is Nemotron-H with experts, as transformers holds them in memory.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/mamba2/modeling_mamba2.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_granite_moe import HF_GRANITE_MOE
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.rule import Rule


def mamba2_rules(path: str, ours: str = "layers.{n}.attention.") -> tuple[Rule, ...]:
    """The rules of a Mamba-2 mixer at this path of a layer, and at the path `ours` in the mirrors."""
    return (
        Rule(path + "{in_proj,conv1d,out_proj}.{name}", ours + "{in_proj,conv,out_proj}.{name}"),
        Rule(path + "norm.weight", ours + "norm_scale"),
        Rule(path + "{A_log,D,dt_bias}", ours + "{A_log,D,dt_bias}"),
    )


HF_MAMBA2 = Layout(
    "hf.mamba2",
    rules=(
        Rule("backbone.embeddings.weight", "token_embedding.weight"),
        *mamba2_rules("backbone.layers.{n}.mixer."),
        Rule("backbone.layers.{n}.norm.weight", "layers.{n}.attention_norm.weight"),
        Rule("backbone.norm_f.weight", "final_norm.weight"),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=(
        *((f"{part}.{{rest}}", f"backbone.{part}.{{rest}}") for part in ("embeddings", "layers", "norm_f")),
        ("backbone.embedding.weight", "backbone.embeddings.weight"),
    ),
    unused=DECODER_HEADS,
)

HF_BAMBA = Layout(
    "hf.bamba",
    rules=(
        Rule(LAYER + "{input_layernorm,pre_ff_layernorm}.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        *mamba2_rules(LAYER + "mamba."),
        Rule(LAYER + "feed_forward.{gate,up,down}_proj.{name}", "layers.{n}.ffn.{gate,up,down}_proj.{name}"),
        Rule("model.final_layernorm.weight", "final_norm.weight"),
        *RULES,
    ),
    spellings=(*SPELLINGS, ("final_layernorm.weight", "model.final_layernorm.weight")),
    dropped=DROPPED,
    unused=DECODER_HEADS,
)

HF_FALCON_H1 = Layout(
    "hf.falcon_h1",
    rules=(
        Rule(LAYER + "{input_layernorm,pre_ff_layernorm}.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        *mamba2_rules(LAYER + "mamba.", "layers.{n}.attention.recurrent_mixer."),
        Rule(
            LAYER + "self_attn.{q,k,v,o}_proj.{name}",
            "layers.{n}.attention.attention_mixer.{q,k,v,out}_proj.{name}",
        ),
        Rule(LAYER + "feed_forward.{gate,up,down}_proj.{name}", "layers.{n}.ffn.{gate,up,down}_proj.{name}"),
        Rule("model.embed_tokens.weight", "token_embedding.weight"),
        Rule("model.final_layernorm.weight", "final_norm.weight"),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=HF_BAMBA.spellings,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)

HF_GRANITE_HYBRID = Layout(
    "hf.granite_hybrid",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        *mamba2_rules(LAYER + "mamba."),
        Rule(
            LAYER + "shared_mlp.input_linear.weight",
            "layers.{n}.ffn.{gate,up}_proj.weight",
            "(two rows) columns -> two rows columns",
        ),
        Rule(LAYER + "shared_mlp.output_linear.weight", "layers.{n}.ffn.down_proj.weight"),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)

HF_GRANITE_HYBRID_MOE = replace(
    HF_GRANITE_MOE,
    name="hf.granite_hybrid_moe",
    rules=(*mamba2_rules(LAYER + "mamba."), *HF_GRANITE_MOE.rules),
)
MIXER = "backbone.layers.{n}.mixer."
FFN = "layers.{n}.ffn."
NEMOTRON_H_EXPERTS = (
    Rule(MIXER + "gate.weight", FFN + "router.weight"),
    Rule(MIXER + "gate.e_score_correction_bias", FFN + "router_bias"),
    Rule(MIXER + "experts.{name}.{up,down}_proj.weight", FFN + "experts.{name}.{up,down}_proj.weight"),
    Rule(MIXER + "shared_experts.{up,down}_proj.{name}", FFN + "shared.{up,down}_proj.{name}"),
    Rule(MIXER + "{fc1,fc2}_latent_proj.{name}", FFN + "latent_{down,up}_proj.{name}"),
)

HF_NEMOTRON_H = Layout(
    "hf.nemotron_h",
    rules=(
        Rule("backbone.embeddings.weight", "token_embedding.weight"),
        *mamba2_rules(MIXER),
        *NEMOTRON_H_EXPERTS,
        Rule(
            "backbone.layers.{n}.mixer.{q,k,v,o}_proj.weight",
            "layers.{n}.attention.{q,k,v,out}_proj.weight",
        ),
        Rule("backbone.layers.{n}.mixer.{up,down}_proj.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
        Rule("backbone.layers.{n}.norm.weight", "layers.{n}.attention_norm.weight"),
        Rule("backbone.norm_f.weight", "final_norm.weight"),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=(("model.{rest}", "backbone.{rest}"), *HF_MAMBA2.spellings),
    unused=(*DECODER_HEADS, Unused("mtp.{rest}", "predicts several tokens at once, not part of the model")),
)
HF_NEMOTRON_H_STACKED = replace(
    HF_NEMOTRON_H,
    name="hf.nemotron_h_stacked",
    rules=(
        Rule(MIXER + "experts.{name}.{up,down}_proj", FFN + "experts.{name}.{up,down}_proj.weight"),
        *HF_NEMOTRON_H.rules,
    ),
    stacked="experts",
)
