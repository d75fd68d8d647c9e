"""`hf.gptj` and `hf.codegen`: Hugging Face `GPTJForCausalLM` and `CodeGenForCausalLM`. Rotary pairs are 2i and 2i + 1.

CodeGen's fused tensor has four blocks, each with the queries, the values and the keys of a quarter of the heads.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/gptj/modeling_gptj.py
https://github.com/huggingface/transformers/blob/main/src/transformers/models/codegen/modeling_codegen.py
"""

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.rule import Rule

LAYER = "transformer.h.{n}."
BLOCKS = 4  # of CodeGen's fused projections

RULES = (
    Rule("transformer.wte.weight", "token_embedding.weight"),
    Rule(LAYER + "ln_1.{name}", "layers.{n}.attention_norm.{name}"),
    Rule(LAYER + "attn.out_proj.weight", "layers.{n}.attention.out_proj.weight"),
    Rule(LAYER + "mlp.fc_{in,out}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
    Rule("transformer.ln_f.{name}", "final_norm.{name}"),
    Rule("lm_head.weight", "head.weight"),
    Rule("lm_head.bias", "head_bias"),
)
SPELLINGS = tuple((f"{part}.{{rest}}", f"transformer.{part}.{{rest}}") for part in ("wte", "h", "ln_f"))
DROPPED = tuple(
    Dropped(f"{LAYER}attn.{name}", "the causal mask and the rotary positions, which are recomputed")
    for name in ("bias", "masked_bias", "causal_mask", "embed_positions")
)

HF_GPTJ = Layout(
    "hf.gptj",
    rules=(
        Rule(LAYER + "attn.{q,k,v}_proj.weight", "layers.{n}.attention.{q,k,v}_proj.weight"),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
HF_CODEGEN = Layout(
    "hf.codegen",
    rules=(
        Rule(
            LAYER + "attn.qkv_proj.weight",
            "layers.{n}.attention.{q,v,k}_proj.weight",
            "(block three o) i -> three (block o) i",
        ),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
