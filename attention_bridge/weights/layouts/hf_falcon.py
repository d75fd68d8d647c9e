"""`hf.falcon` and `hf.falcon_two_norms`: Hugging Face `FalconForCausalLM` with one norm per layer (7B) or two (40B).

One fused tensor holds, for each group of heads, the queries, the key and the value.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/falcon/modeling_falcon.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_bloom import HF_BLOOM, LAYER
from attention_bridge.weights.rule import Rule

HF_FALCON = Layout("hf.falcon", rules=HF_BLOOM.rules, spellings=HF_BLOOM.spellings, unused=HF_BLOOM.unused)

HF_FALCON_TWO_NORMS = Layout(
    "hf.falcon_two_norms",
    rules=(Rule(LAYER + "ln_{attn,mlp}.{name}", "layers.{n}.{attention,ffn}_norm.{name}"), *HF_BLOOM.rules),
    spellings=HF_BLOOM.spellings,
    unused=HF_BLOOM.unused,
)
