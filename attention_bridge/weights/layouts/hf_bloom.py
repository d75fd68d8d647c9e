"""`hf.bloom`: Hugging Face `BloomForCausalLM`; one fused tensor holds query, key and value of each head in turn.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/bloom/modeling_bloom.py
"""

from attention_bridge.weights.grouped import GroupedRule
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.rule import Rule

LAYER = "transformer.h.{n}."

HF_BLOOM = Layout(
    "hf.bloom",
    rules=(
        Rule("transformer.word_embeddings.weight", "token_embedding.weight"),
        Rule("transformer.word_embeddings_layernorm.{name}", "embedding_norm.{name}"),
        Rule(LAYER + "{input,post_attention}_layernorm.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        *(
            GroupedRule(
                f"{LAYER}self_attention.query_key_value.{name}",
                f"layers.{{n}}.attention.{{q,k,v}}_proj.{name}",
            )
            for name in ("weight", "bias")
        ),
        Rule(LAYER + "self_attention.dense.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule(LAYER + "mlp.{dense_h_to_4h,dense_4h_to_h}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
        Rule("transformer.ln_f.{name}", "final_norm.{name}"),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=tuple(
        (f"{part}.{{rest}}", f"transformer.{part}.{{rest}}")
        for part in ("word_embeddings", "word_embeddings_layernorm", "h", "ln_f")
    ),
    unused=DECODER_HEADS,
)
