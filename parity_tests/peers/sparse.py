"""Peers of attention that chooses its keys."""

import numpy as np
import torch
import x_transformers

from attention_bridge.catalogue import Part
from parity_tests.peers import Comparison, numpy, peer, weights_of


@peer("TopKAttention", "x-transformers Attention with sparse_topk")
def x_transformers_top_k(rng: np.random.Generator) -> Comparison:
    # A key that ties with the last one kept is kept too; no two scores are equal here.
    theirs = x_transformers.Attention(dim=12, dim_head=4, heads=3, sparse_topk=3, causal=True).double().eval()
    for parameter in theirs.parameters():
        parameter.data = torch.from_numpy(0.4 * rng.standard_normal(parameter.shape))
    x = rng.standard_normal((2, 7, 12))
    output, intermediates = theirs(torch.from_numpy(x), return_intermediates=True)
    module = Part(
        "TopKAttention", {"embed_dim": 12, "num_heads": 3, "top_k": 3, "is_causal": True, "bias": False}
    )
    weights = weights_of(theirs, q_proj="to_q", k_proj="to_k", v_proj="to_v", out_proj="to_out")
    expected = {"output": numpy(output), "weights": numpy(intermediates.post_softmax_attn)}
    return Comparison(module, weights, {"x": x}, expected)
