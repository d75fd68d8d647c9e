"""Layouts for weight conversion, by name; each table is in a file of its own."""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.equinox_mha import EQUINOX_MHA
from attention_bridge.weights.layouts.flax_mha import FLAX_LINEN_MHA, FLAX_NNX_MHA
from attention_bridge.weights.layouts.gguf_llama import GGUF_LLAMA, GGUF_QWEN
from attention_bridge.weights.layouts.haiku_mha import HAIKU_MHA
from attention_bridge.weights.layouts.hf_albert import HF_ALBERT
from attention_bridge.weights.layouts.hf_bart import HF_BART, HF_BART_DECODER
from attention_bridge.weights.layouts.hf_bert import HF_BERT, HF_DISTILBERT
from attention_bridge.weights.layouts.hf_bloom import HF_BLOOM
from attention_bridge.weights.layouts.hf_clip import HF_CLIP, HF_CLIP_TEXT, HF_CLIP_VISION
from attention_bridge.weights.layouts.hf_deepseek import HF_DEEPSEEK_V3
from attention_bridge.weights.layouts.hf_falcon import HF_FALCON, HF_FALCON_TWO_NORMS
from attention_bridge.weights.layouts.hf_gpt2 import HF_GPT2
from attention_bridge.weights.layouts.hf_gpt_neox import HF_GPT_NEOX
from attention_bridge.weights.layouts.hf_llama import HF_GEMMA, HF_GEMMA3, HF_LLAMA
from attention_bridge.weights.layouts.hf_t5 import HF_T5, HF_T5_ENCODER, HF_T5_GATED, HF_T5_GATED_ENCODER
from attention_bridge.weights.layouts.hf_vit import HF_VIT
from attention_bridge.weights.layouts.hf_whisper import HF_WHISPER, HF_WHISPER_DECODER
from attention_bridge.weights.layouts.jax_attention import JAX_ATTENTION
from attention_bridge.weights.layouts.keras_mha import KERAS_GQA, KERAS_MHA
from attention_bridge.weights.layouts.linen import LINEN, LINEN_SCAN
from attention_bridge.weights.layouts.meta_llama import META_LLAMA
from attention_bridge.weights.layouts.timm_vit import TIMM_VIT
from attention_bridge.weights.layouts.torch_attention import TORCH_ATTENTION
from attention_bridge.weights.layouts.torch_layers import TORCH_DECODER_LAYER, TORCH_ENCODER_LAYER
from attention_bridge.weights.layouts.torch_mha import TORCH_MHA
from attention_bridge.weights.layouts.x_transformers import X_TRANSFORMERS

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        TORCH_ATTENTION,
        JAX_ATTENTION,
        LINEN,
        LINEN_SCAN,
        TORCH_MHA,
        TORCH_ENCODER_LAYER,
        TORCH_DECODER_LAYER,
        FLAX_NNX_MHA,
        FLAX_LINEN_MHA,
        KERAS_MHA,
        KERAS_GQA,
        EQUINOX_MHA,
        HAIKU_MHA,
        X_TRANSFORMERS,
        HF_BERT,
        HF_DISTILBERT,
        HF_ALBERT,
        HF_GPT2,
        HF_GPT_NEOX,
        HF_LLAMA,
        HF_GEMMA,
        HF_GEMMA3,
        META_LLAMA,
        HF_DEEPSEEK_V3,
        HF_BLOOM,
        HF_FALCON,
        HF_FALCON_TWO_NORMS,
        HF_T5,
        HF_T5_GATED,
        HF_T5_ENCODER,
        HF_T5_GATED_ENCODER,
        HF_BART,
        HF_BART_DECODER,
        HF_WHISPER,
        HF_WHISPER_DECODER,
        HF_VIT,
        TIMM_VIT,
        HF_CLIP,
        HF_CLIP_TEXT,
        HF_CLIP_VISION,
        GGUF_LLAMA,
        GGUF_QWEN,
    )
}

__all__ = ["LAYOUTS"]
