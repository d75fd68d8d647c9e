"""Peers of the heads."""

import numpy as np
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding

from attention_bridge.catalogue import Part
from parity_tests.peers import Comparison, numpy, peer, weights_of


@peer("RotaryEmbedding", "transformers LlamaAttention")
@peer("GroupedQueryAttention", "transformers LlamaAttention")
def llama(rng: np.random.Generator) -> Comparison:
    config = LlamaConfig(
        hidden_size=24, num_attention_heads=6, num_key_value_heads=2, head_dim=8, attention_bias=False
    )
    config._attn_implementation = "eager"
    theirs = LlamaAttention(config, layer_idx=0).eval()  # its softmax is float32 in any case
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
