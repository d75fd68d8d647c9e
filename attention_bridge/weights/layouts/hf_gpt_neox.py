"""`hf.gpt_neox`: Hugging Face `GPTNeoXForCausalLM`; one fused tensor holds query, key and value of each head in turn.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt_neox/modeling_gpt_neox.py
"""

from attention_bridge.weights.grouped import GroupedRule
from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.rule import Rule

LAYER = "gpt_neox.layers.{n}."

HF_GPT_NEOX = Layout(
    "hf.gpt_neox",
    rules=(
        Rule("gpt_neox.embed_in.weight", "token_embedding.weight"),
        Rule(LAYER + "{input,post_attention}_layernorm.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        *(
            GroupedRule(
                f"{LAYER}attention.query_key_value.{name}", f"layers.{{n}}.attention.{{q,k,v}}_proj.{name}"
            )
            for name in ("weight", "bias")
        ),
        Rule(LAYER + "attention.dense.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule(LAYER + "mlp.{dense_h_to_4h,dense_4h_to_h}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
        Rule("gpt_neox.final_layer_norm.{name}", "final_norm.{name}"),
        Rule("embed_out.weight", "head.weight"),
    ),
    spellings=(
        ("lm_head.weight", "embed_out.weight"),
        *(
            (f"{part}.{{rest}}", f"gpt_neox.{part}.{{rest}}")
            for part in ("embed_in", "layers", "final_layer_norm")
        ),
    ),
    dropped=tuple(
        Dropped(
            f"{LAYER}attention.{name}", "the causal mask and the rotary frequencies, which are recomputed"
        )
        for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
    ),
    unused=DECODER_HEADS,
)
