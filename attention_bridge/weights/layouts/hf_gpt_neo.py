"""`hf.gpt_neo`, `hf.gpt_bigcode` and `hf.mpt`: decoders of Hugging Face with the names of GPT-2 or similar ones.

GPT-BigCode with one key head has one tensor with all queries, the key and the value: a single group with g=1. With as
many key heads as query heads, each head's query, key and value follow each other: g is the number of heads.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt_neo/modeling_gpt_neo.py
https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt_bigcode/modeling_gpt_bigcode.py
https://github.com/huggingface/transformers/blob/main/src/transformers/models/mpt/modeling_mpt.py
"""

from attention_bridge.weights.grouped import GroupedRule
from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.rule import Rule

LAYER = "transformer.h.{n}."

RULES = (
    Rule("transformer.{wte,wpe}.weight", "{token,position}_embedding.weight"),
    Rule(LAYER + "{ln_1,ln_2}.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
    Rule(LAYER + "mlp.c_{fc,proj}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
    Rule("transformer.ln_f.{name}", "final_norm.{name}"),
    Rule("lm_head.weight", "head.weight"),
)
SPELLINGS = tuple(
    (f"{part}.{{rest}}", f"transformer.{part}.{{rest}}") for part in ("wte", "wpe", "h", "ln_f")
)

HF_GPT_NEO = Layout(
    "hf.gpt_neo",
    rules=(
        Rule(
            LAYER + "attn.attention.{q,k,v,out}_proj.{name}", "layers.{n}.attention.{q,k,v,out}_proj.{name}"
        ),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=tuple(
        Dropped(f"{LAYER}attn.attention.{name}", "the causal mask, which is recomputed")
        for name in ("bias", "masked_bias")
    ),
    unused=DECODER_HEADS,
)

HF_GPT_BIGCODE = Layout(
    "hf.gpt_bigcode",
    rules=(
        *(
            GroupedRule(f"{LAYER}attn.c_attn.{name}", f"layers.{{n}}.attention.{{q,k,v}}_proj.{name}")
            for name in ("weight", "bias")
        ),
        Rule(LAYER + "attn.c_proj.{name}", "layers.{n}.attention.out_proj.{name}"),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=(Dropped(f"{LAYER}attn.bias", "the causal mask, which is recomputed"),),
    unused=DECODER_HEADS,
)

BLOCK = "transformer.blocks.{n}."

HF_MPT = Layout(
    "hf.mpt",
    rules=(
        Rule("transformer.wte.weight", "token_embedding.weight"),
        Rule(BLOCK + "{norm_1,norm_2}.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        Rule(
            BLOCK + "attn.Wqkv.weight",
            "layers.{n}.attention.{q,k,v}_proj.weight",
            "(three rows) columns -> three rows columns",
        ),
        Rule(BLOCK + "attn.out_proj.weight", "layers.{n}.attention.out_proj.weight"),
        Rule(BLOCK + "ffn.{up,down}_proj.weight", "layers.{n}.ffn.{up,down}_proj.weight"),
        Rule("transformer.norm_f.weight", "final_norm.weight"),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=tuple(
        (f"{part}.{{rest}}", f"transformer.{part}.{{rest}}") for part in ("wte", "blocks", "norm_f")
    ),
    unused=DECODER_HEADS,
)
