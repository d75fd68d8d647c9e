"""Small language models of known shapes, from their descriptions, in either mirror."""

from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.pretrained.families.describe import (
    Heads,
    language_model,
    latent_decoder,
    parallel_decoder,
    rotary_decoder,
)


def rope(head_dim, rotary_dim=None):
    """Rotary positions for a head, or for its first `rotary_dim` features."""
    return Part("RotaryEmbedding", {"head_dim": head_dim, "rotary_dim": rotary_dim or head_dim})


def rotary(heads, **options):
    """A decoder in the style of Llama."""
    return rotary_decoder(heads, rope=rope(heads.head_dim), **options)


def parallel(heads, rotary_dim, **options):
    """A decoder in the style of GPT-NeoX."""
    return parallel_decoder(heads, position=rope(heads.head_dim, rotary_dim), **options)


def latent(sizes, experts=None, **options):
    """A decoder in the style of DeepSeek; `sizes` are constructor arguments of its latent attention."""
    embed_dim, num_heads, kv_lora_rank, q_lora_rank, nope, turned, value = sizes
    mixer = {
        "num_heads": num_heads,
        "kv_lora_rank": kv_lora_rank,
        "q_lora_rank": q_lora_rank,
        "nope_head_dim": nope,
        "rope_head_dim": turned,
        "value_head_dim": value,
        "position": rope(turned),
    }
    return latent_decoder(mixer, embed_dim=embed_dim, experts=experts, **options)


def experts(num_experts, num_chosen, ffn_dim, **routing):
    """A mixture of experts in the style of DeepSeek, with a shared expert."""
    chosen = Part("SigmoidRouting", {"num_chosen": num_chosen, **routing})
    sizes = {"num_experts": num_experts, "ffn_dim": ffn_dim, "shared_dim": ffn_dim}
    return Part("MixtureOfExperts", {**sizes, "routing": chosen})


def made(spec, models, options):
    """The model of a mirror, given the mirror's `models` module."""
    return build(language_model(spec), models.__name__.partition(".")[0], options)


__all__ = ["Heads", "experts", "latent", "made", "parallel", "rope", "rotary"]
