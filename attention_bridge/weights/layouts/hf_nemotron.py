"""`hf.nemotron`: Hugging Face `NemotronForCausalLM` and `StableLmForCausalLM`, named as Llama, with layer norms.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/nemotron/modeling_nemotron.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, RULES, SPELLINGS
from attention_bridge.weights.rule import Rule

HF_NEMOTRON = Layout(
    "hf.nemotron",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        Rule("model.norm.{name}", "final_norm.{name}"),
        *(rule for rule in RULES if rule.theirs != "model.norm.weight"),
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)


def hf_stablelm(num_heads: int, num_kv_heads: int) -> Layout:
    """The layout with norms of queries and keys, one tensor for each head."""
    norms = (_head_norm("q", num_heads), _head_norm("k", num_kv_heads))
    return replace(HF_NEMOTRON, rules=(*norms, *HF_NEMOTRON.rules))


def _head_norm(name: str, count: int) -> Rule:
    several = ",".join(map(str, range(count)))
    number, pattern = ("0", "dim -> 1 dim") if count == 1 else (f"{{{several}}}", "heads dim -> heads dim")
    theirs = f"{LAYER}self_attn.{name}_layernorm.norms.{number}.weight"
    return Rule(theirs, f"layers.{{n}}.attention.{name}_norm.head_scale", pattern)
