"""`hf.openai_gpt`: Hugging Face `OpenAIGPTLMHeadModel`, whose projections are `Conv1D` layers with `(in, out)` weights.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/openai/modeling_openai.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS, HF_GPT2
from attention_bridge.weights.rule import Rule

HF_OPENAI_GPT = Layout(
    "hf.openai_gpt",
    rules=(
        Rule("transformer.{tokens,positions}_embed.weight", "{token,position}_embedding.weight"),
        *(
            replace(rule, theirs=f"transformer.{rule.theirs}")
            for rule in HF_GPT2.rules
            if isinstance(rule, Rule) and rule.theirs.startswith("h.")
        ),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=tuple(
        (f"{part}.{{rest}}", f"transformer.{part}.{{rest}}")
        for part in ("tokens_embed", "positions_embed", "h")
    ),
    dropped=(
        Dropped("transformer.h.{n}.attn.bias", "the causal mask, which is recomputed"),
        Dropped("{path}position_ids", "the positions, which are counted"),
    ),
    unused=DECODER_HEADS,
)
