"""`hf.persimmon`: Hugging Face `PersimmonForCausalLM`; one fused tensor holds each head's query, key and value in turn.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/persimmon/modeling_persimmon.py
"""

from attention_bridge.weights.grouped import GroupedRule
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER
from attention_bridge.weights.rule import Rule

HF_PERSIMMON = Layout(
    "hf.persimmon",
    rules=(
        Rule("model.embed_tokens.weight", "token_embedding.weight"),
        Rule(LAYER + "{input,post_attention}_layernorm.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        *(
            GroupedRule(
                f"{LAYER}self_attn.query_key_value.{name}", f"layers.{{n}}.attention.{{q,k,v}}_proj.{name}"
            )
            for name in ("weight", "bias")
        ),
        Rule(LAYER + "self_attn.dense.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule(LAYER + "self_attn.{q,k}_layernorm.{name}", "layers.{n}.attention.{q,k}_norm.{name}"),
        Rule(LAYER + "mlp.{dense_h_to_4h,dense_4h_to_h}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
        Rule("model.final_layernorm.{name}", "final_norm.{name}"),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=tuple(
        (f"{part}.{{rest}}", f"model.{part}.{{rest}}")
        for part in ("embed_tokens", "layers", "final_layernorm")
    ),
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
