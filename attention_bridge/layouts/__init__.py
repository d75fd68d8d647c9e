"""The layouts that weights can be converted between: one table a file, collected here by name."""

from attention_bridge.layouts.equinox_mha import EQUINOX_MHA
from attention_bridge.layouts.flax_mha import FLAX_LINEN_MHA, FLAX_NNX_MHA
from attention_bridge.layouts.haiku_mha import HAIKU_MHA
from attention_bridge.layouts.hf_bert import HF_BERT
from attention_bridge.layouts.hf_gpt2 import HF_GPT2
from attention_bridge.layouts.jax_attention import JAX_ATTENTION
from attention_bridge.layouts.keras_mha import KERAS_GQA, KERAS_MHA
from attention_bridge.layouts.linen import LINEN
from attention_bridge.layouts.torch_attention import TORCH_ATTENTION
from attention_bridge.layouts.torch_mha import TORCH_MHA
from attention_bridge.layouts.x_transformers import X_TRANSFORMERS
from attention_bridge.weights.layout import Layout

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        TORCH_ATTENTION,
        JAX_ATTENTION,
        LINEN,
        TORCH_MHA,
        FLAX_NNX_MHA,
        FLAX_LINEN_MHA,
        KERAS_MHA,
        KERAS_GQA,
        EQUINOX_MHA,
        HAIKU_MHA,
        X_TRANSFORMERS,
        HF_BERT,
        HF_GPT2,
    )
}

__all__ = ["LAYOUTS"]
