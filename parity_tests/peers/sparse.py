"""Peers of sparse attention."""

from pathlib import Path

import numpy as np
import torch
import x_transformers
from safetensors.numpy import load_file
from transformers import DeepseekV32Config, ReformerConfig
from transformers.models.deepseek_v32.modeling_deepseek_v32 import (
    DeepseekV32Attention,
    DeepseekV32RotaryEmbedding,
)
from transformers.models.reformer.modeling_reformer import LSHSelfAttention

from attention_bridge.catalogue import Part
from parity_tests.peers import Comparison, numpy, peer, weights_of

FIXTURES = Path(__file__).parents[1] / "fixtures"


def fixture(name: str) -> tuple[dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """Weights, input and expected outputs of one run from the file that `fixtures/make_sparse.py` writes."""
    found = load_file(FIXTURES / "sparse.safetensors")
    of = {key.removeprefix(f"{name}/"): x for key, x in found.items() if key.startswith(f"{name}/")}
    expected = {key.removeprefix("expected."): of.pop(key) for key in list(of) if key.startswith("expected.")}
    return of, of.pop("x"), expected


def fill(module: torch.nn.Module, rng: np.random.Generator) -> None:
    """Fill the parameters of a module with random numbers; norm weights are around 1."""
    for name, parameter in module.named_parameters():
        drawn = 0.4 * rng.standard_normal(parameter.shape) + ("norm.weight" in name)
        parameter.data = torch.from_numpy(drawn).to(parameter.dtype)


@peer("TopKAttention", "x-transformers Attention with sparse_topk")
def x_transformers_top_k(rng: np.random.Generator) -> Comparison:
    # It also keeps keys that tie with the last kept key; here no two scores are equal.
    theirs = x_transformers.Attention(dim=12, dim_head=4, heads=3, sparse_topk=3, causal=True).double().eval()
    fill(theirs, rng)
    x = rng.standard_normal((2, 7, 12))
    output, intermediates = theirs(torch.from_numpy(x), return_intermediates=True)
    module = Part(
        "TopKAttention", {"embed_dim": 12, "num_heads": 3, "top_k": 3, "is_causal": True, "bias": False}
    )
    weights = weights_of(theirs, q_proj="to_q", k_proj="to_k", v_proj="to_v", out_proj="to_out")
    expected = {"output": numpy(output), "weights": numpy(intermediates.post_softmax_attn)}
    return Comparison(module, weights, {"x": x}, expected)


@peer("DeepSeekSparseAttention", "transformers DeepseekV32Attention")
def transformers_deepseek_v32(rng: np.random.Generator) -> Comparison:
    config = DeepseekV32Config(
        hidden_size=12,
        num_attention_heads=3,
        num_key_value_heads=3,
        q_lora_rank=10,
        kv_lora_rank=8,
        qk_nope_head_dim=5,
        qk_rope_head_dim=4,
        v_head_dim=6,
        index_n_heads=4,
        index_head_dim=7,
        index_topk=3,
        attention_bias=False,
    )
    config._attn_implementation = "eager"
    theirs = DeepseekV32Attention(config, layer_idx=0).eval()  # its indexer and softmax are always float32
    fill(theirs, rng)
    x = rng.standard_normal((2, 9, 12)).astype(np.float32)
    causal = torch.full((9, 9), -torch.inf).triu(1)[None, None].expand(2, 1, 9, 9)
    turns = DeepseekV32RotaryEmbedding(config)(torch.zeros(1), torch.arange(9)[None])
    output, weights = theirs(torch.from_numpy(x), turns, causal)
    module = Part(
        "DeepSeekSparseAttention",
        {
            "attention": Part(
                "MultiHeadLatentAttention",
                {
                    "embed_dim": 12,
                    "num_heads": 3,
                    "kv_lora_rank": 8,
                    "nope_head_dim": 5,
                    "rope_head_dim": 4,
                    "value_head_dim": 6,
                    "q_lora_rank": 10,
                    "position": Part("RotaryEmbedding", {"head_dim": 4, "interleaved": True}),
                },
            ),
            "indexer": Part(
                "LightningIndexer",
                {
                    "embed_dim": 12,
                    "num_heads": 4,
                    "head_dim": 7,
                    "query_dim": 10,
                    "position": Part("RotaryEmbedding", {"head_dim": 7, "rotary_dim": 4}),
                },
            ),
            "top_k": 3,
        },
    )
    names = {
        "attention.q_a_proj": "q_a_proj",
        "attention.q_a_norm": "q_a_layernorm",
        "attention.q_b_proj": "q_b_proj",
        "attention.kv_a_proj": "kv_a_proj_with_mqa",
        "attention.kv_a_norm": "kv_a_layernorm",
        "attention.kv_b_proj": "kv_b_proj",
        "attention.out_proj": "o_proj",
        "indexer.q_proj": "indexer.wq_b",
        "indexer.k_proj": "indexer.wk",
        "indexer.k_norm": "indexer.k_norm",
        "indexer.weight_proj": "indexer.weights_proj",
    }
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, weights_of(theirs, **names), {"x": x}, expected)


@peer("DeepSeekSparseAttention", "flash-linear-attention naive_dsa, on grouped heads")
def flash_linear_attention_dsa(rng: np.random.Generator) -> Comparison:
    weights, x, expected = fixture("naive_dsa")
    module = Part(
        "DeepSeekSparseAttention",
        {
            "attention": Part(
                "GroupedQueryAttention", {"embed_dim": 12, "num_heads": 4, "num_kv_heads": 2, "bias": False}
            ),
            "indexer": Part("LightningIndexer", {"embed_dim": 12, "num_heads": 5, "head_dim": 6}),
            "top_k": 3,
        },
    )
    return Comparison(module, weights, {"x": x}, expected)


@peer(
    "NativeSparseAttention",
    "flash-linear-attention naive_nsa_compression, naive_nsa_topk and naive_nsa_selection",
)
def flash_linear_attention_nsa(rng: np.random.Generator) -> Comparison:
    # There, compressed and selected blocks coincide, a compressed key is the mean of its block's keys, and all branches
    # share keys and values.
    weights, x, expected = fixture("naive_nsa")
    module = Part(
        "NativeSparseAttention",
        {
            "embed_dim": 12,
            "num_heads": 4,
            "num_kv_heads": 2,
            "compressed_size": 2,
            "stride": 2,
            "selected_size": 2,
            "num_selected": 4,
            "window": 1,
            "bias": False,
        },
    )
    return Comparison(module, weights, {"x": x}, expected)


def reformer(rng: np.random.Generator, *, is_causal: bool) -> Comparison:
    """Compare Reformer's attention without its output projection; the seed determines its hash rotations."""
    config = ReformerConfig(
        hidden_size=12,
        num_attention_heads=3,
        attention_head_size=4,
        num_hashes=3,
        num_buckets=6,
        lsh_attn_chunk_length=4,
        lsh_num_chunks_before=1,
        lsh_num_chunks_after=0,
        is_decoder=is_causal,
        hash_seed=7,
    )
    theirs = LSHSelfAttention(config).double().eval()
    fill(theirs, rng)
    x = rng.standard_normal((2, 16, 12))
    output = theirs(torch.from_numpy(x)).hidden_states
    torch.manual_seed(config.hash_seed)
    weights = weights_of(theirs, qk_proj="query_key", v_proj="value") | {
        "out_proj.weight": np.eye(12),
        "rotations": numpy(torch.randn((3, 4, 3, 3), dtype=torch.float64)),
    }
    module = Part(
        "LSHAttention",
        {
            "embed_dim": 12,
            "num_heads": 3,
            "num_buckets": 6,
            "chunk_length": 4,
            "num_rounds": 3,
            "is_causal": is_causal,
            "count_repeats": True,
            "circular": True,
            "bias": False,
        },
    )
    return Comparison(module, weights, {"x": x}, {"output": numpy(output)})


@peer("LSHAttention", "transformers LSHSelfAttention")
def transformers_reformer(rng: np.random.Generator) -> Comparison:
    return reformer(rng, is_causal=False)


@peer("LSHAttention", "transformers LSHSelfAttention, causal")
def transformers_causal_reformer(rng: np.random.Generator) -> Comparison:
    return reformer(rng, is_causal=True)
