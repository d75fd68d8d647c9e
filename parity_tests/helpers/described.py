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
    """Rotary positions, of a part of the features if asked for."""
    return Part("RotaryEmbedding", {"head_dim": head_dim, "rotary_dim": rotary_dim or head_dim})


def rotary(heads, **options):
    """A decoder of Llama's shape."""
    return rotary_decoder(heads, rope=rope(heads.head_dim), **options)


def parallel(heads, rotary_dim, **options):
    """A decoder of GPT-NeoX's shape."""
    return parallel_decoder(heads, position=rope(heads.head_dim, rotary_dim), **options)


def latent(sizes, experts=None, **options):
    """A decoder of DeepSeek's shape; `sizes` are those of latent attention in the order of its constructor."""
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
    """A mixture of experts of DeepSeek's kind, with a shared one."""
    chosen = Part("SigmoidRouting", {"num_chosen": num_chosen, **routing})
    sizes = {"num_experts": num_experts, "ffn_dim": ffn_dim, "shared_dim": ffn_dim}
    return Part("MixtureOfExperts", {**sizes, "routing": chosen})


def made(spec, models, options):
    """The model of a mirror, whose module `models` is given."""
    return build(language_model(spec), models.__name__.partition(".")[0], options)


__all__ = ["Heads", "experts", "latent", "made", "parallel", "rope", "rotary"]
