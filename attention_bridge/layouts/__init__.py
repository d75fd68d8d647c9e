"""The layouts that weights can be converted between: one table a file, collected here by name."""

from attention_bridge.layouts.hf_bert import HF_BERT
from attention_bridge.layouts.hf_gpt2 import HF_GPT2
from attention_bridge.layouts.jax_attention import JAX_ATTENTION
from attention_bridge.layouts.linen import LINEN
from attention_bridge.layouts.torch_attention import TORCH_ATTENTION
from attention_bridge.layouts.torch_mha import TORCH_MHA
from attention_bridge.weights.layout import Layout

LAYOUTS: dict[str, Layout] = {
    layout.name: layout for layout in (TORCH_ATTENTION, JAX_ATTENTION, LINEN, TORCH_MHA, HF_BERT, HF_GPT2)
}

__all__ = ["LAYOUTS"]
