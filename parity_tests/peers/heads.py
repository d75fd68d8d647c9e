"""Peers of grouped-query, multi-query and latent attention."""

import numpy as np
import torch
import x_transformers
from transformers import DeepseekV3Config, DynamicCache, GPTBigCodeConfig, LlamaConfig
from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
    DeepseekV3Attention,
    DeepseekV3RotaryEmbedding,
)
from transformers.models.gpt_bigcode.modeling_gpt_bigcode import GPTBigCodeAttention
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from attention_bridge.catalogue import Part
from parity_tests.peers import Comparison, numpy, peer, randomise, weights_of


@peer("RotaryEmbedding", "transformers LlamaAttention")
@peer("GroupedQueryAttention", "transformers LlamaAttention")
def llama(rng: np.random.Generator) -> Comparison:
    config = LlamaConfig(
        hidden_size=24, num_attention_heads=6, num_key_value_heads=2, head_dim=8, attention_bias=False
    )
    config._attn_implementation = "eager"
    theirs = LlamaAttention(config, layer_idx=0).eval()  # its softmax is always float32
    x = rng.standard_normal((2, 5, 24)).astype(np.float32)
    causal = torch.full((5, 5), -torch.inf).triu(1)[None, None]
    turns = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.arange(5)[None])
    output, weights = theirs(torch.from_numpy(x), turns, causal)
    names = {f"{name}_proj": f"{name}_proj" for name in "qkv"} | {"out_proj": "o_proj"}
    module = Part(
        "GroupedQueryAttention",
        {
            "embed_dim": 24,
            "num_heads": 6,
            "num_kv_heads": 2,
            "head_dim": 8,
            "is_causal": True,
            "bias": False,
            "position": Part("RotaryEmbedding", {"head_dim": 8}),
        },
    )
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, weights_of(theirs, **names), {"x": x}, expected)


@peer("MultiQueryAttention", "transformers GPTBigCodeAttention")
def gpt_bigcode(rng: np.random.Generator) -> Comparison:
    config = GPTBigCodeConfig(n_embd=12, n_head=3, multi_query=True)
    config._attn_implementation = "eager"  # its softmax is always float32
    theirs = GPTBigCodeAttention(config).eval()
    randomise(theirs, rng)
    x = rng.standard_normal((2, 5, 12)).astype(np.float32)
    causal = torch.full((5, 5), -torch.inf).triu(1)[None, None]
    output, weights = theirs(torch.from_numpy(x), attention_mask=causal)
    packed = weights_of(theirs, c_attn="c_attn")  # rows of all query heads, then key, then value
    ours = {
        f"{name}_proj{kind.removeprefix('c_attn')}": rows
        for kind, both in packed.items()
        for name, rows in zip("qkv", np.split(both, [12, 16]), strict=True)
    }
    module = Part("MultiQueryAttention", {"embed_dim": 12, "num_heads": 3, "is_causal": True})
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, {**ours, **weights_of(theirs, out_proj="c_proj")}, {"x": x}, expected)


@peer("MultiQueryAttention", "x-transformers Attention with one_kv_head")
def x_transformers_one_kv_head(rng: np.random.Generator) -> Comparison:
    theirs = x_transformers.Attention(dim=12, dim_head=5, heads=3, one_kv_head=True).eval()
    randomise(theirs, rng)
    x = rng.standard_normal((2, 5, 12)).astype(np.float32)  # its softmax is always float32
    mask = (
        rng.random((2, 3, 5, 5)) < 0.6
    )  # as `attn_mask`; the key mask `mask` would also zero the outputs of queries
    mask[..., 0] = True
    output, intermediates = theirs(
        torch.from_numpy(x), attn_mask=torch.from_numpy(mask), return_intermediates=True
    )
    arguments = {"embed_dim": 12, "num_heads": 3, "head_dim": 5, "bias": False}
    weights = weights_of(theirs, q_proj="to_q", k_proj="to_k", v_proj="to_v", out_proj="to_out")
    expected = {"output": numpy(output), "weights": numpy(intermediates.post_softmax_attn)}
    return Comparison(Part("MultiQueryAttention", arguments), weights, {"x": x, "mask": mask}, expected)


SIZES = {"num_heads": 3, "kv_lora_rank": 7, "nope_head_dim": 5, "rope_head_dim": 8, "value_head_dim": 6}


def deepseek(
    rng: np.random.Generator, name: str, q_lora_rank: int | None, *, interleaved: bool
) -> Comparison:
    """Run DeepSeek's attention, whose norms are always float32; for `AbsorbedLatentAttention` twice, with a cache."""
    config = DeepseekV3Config(
        hidden_size=12,
        num_attention_heads=3,
        num_key_value_heads=3,
        kv_lora_rank=7,
        q_lora_rank=q_lora_rank,
        qk_nope_head_dim=5,
        qk_rope_head_dim=8,
        v_head_dim=6,
        rope_interleave=interleaved,
    )
    config._attn_implementation = "eager"
    theirs = DeepseekV3Attention(config, layer_idx=0).eval()
    randomise(theirs, rng)
    x = rng.standard_normal((2, 5, 12)).astype(np.float32)
    turns = DeepseekV3RotaryEmbedding(config)(torch.zeros(1), torch.arange(5)[None])
    causal = torch.full((5, 5), -torch.inf).triu(1)[None, None]
    cache = DynamicCache(config=config)
    outputs, weights = [], []
    for rows in (slice(0, 3), slice(3, 5)) if name == "AbsorbedLatentAttention" else (slice(0, 5),):
        cosine, sine = (turn[:, rows] for turn in turns)
        output, of_rows = theirs(
            torch.from_numpy(x[:, rows]),
            (cosine, sine),
            causal[:, :, rows, : rows.stop],
            past_key_values=cache,
        )
        outputs.append(output)
        weights.append(torch.nn.functional.pad(of_rows, (0, 5 - rows.stop)))
    names = {
        "q_proj": "q_proj",
        "q_a_proj": "q_a_proj",
        "q_a_norm": "q_a_layernorm",
        "q_b_proj": "q_b_proj",
        "kv_a_proj": "kv_a_proj_with_mqa",
        "kv_a_norm": "kv_a_layernorm",
        "kv_b_proj": "kv_b_proj",
        "out_proj": "o_proj",
    }
    position = Part("RotaryEmbedding", {"head_dim": 8, "interleaved": interleaved})
    module = Part(name, {**SIZES, "embed_dim": 12, "q_lora_rank": q_lora_rank, "position": position})
    expected = {"output": numpy(torch.cat(outputs, 1)), "weights": numpy(torch.cat(weights, 2))}
    return Comparison(module, weights_of(theirs, **names), {"x": x}, expected)


@peer("MultiHeadLatentAttention", "transformers DeepseekV3Attention")
def deepseek_v3(rng: np.random.Generator) -> Comparison:
    return deepseek(rng, "MultiHeadLatentAttention", 9, interleaved=True)


@peer("MultiHeadLatentAttention", "transformers DeepseekV3Attention, q_lora_rank=None")
def deepseek_v3_with_one_query_projection(rng: np.random.Generator) -> Comparison:
    return deepseek(rng, "MultiHeadLatentAttention", None, interleaved=False)


@peer("AbsorbedLatentAttention", "transformers DeepseekV3Attention with a cache")
def deepseek_v3_with_a_cache(rng: np.random.Generator) -> Comparison:
    return deepseek(rng, "AbsorbedLatentAttention", 9, interleaved=True)
