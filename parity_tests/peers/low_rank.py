"""Peers of low-rank attention: Linformer and Nyströmformer."""

import linformer
import numpy as np
import nystrom_attention
import torch
from transformers import NystromformerConfig
from transformers.models.nystromformer.modeling_nystromformer import NystromformerSelfAttention

from attention_bridge.catalogue import Part
from parity_tests.peers import Comparison, numpy, peer, weights_of


@peer("LinformerAttention", "linformer LinformerSelfAttention")
def linformer_self_attention(rng: np.random.Generator) -> Comparison:
    theirs = linformer.LinformerSelfAttention(dim=12, seq_len=9, k=5, heads=3).double().eval()
    torch.nn.init.zeros_(theirs.to_out.bias)  # the other projections have none
    x = rng.standard_normal((2, 7, 12))  # shorter than the maximum length
    output = theirs(torch.from_numpy(x))
    weights = weights_of(
        theirs,
        q_proj="to_q",
        k_proj="to_k",
        v_proj="to_v",
        out_proj="to_out",
        key_mixtures="proj_k",
        value_mixtures="proj_v",
    )
    del weights["out_proj.bias"]
    module = Part(
        "LinformerAttention",
        {"embed_dim": 12, "num_heads": 3, "length": 9, "projected_length": 5, "bias": False},
    )
    return Comparison(module, weights, {"x": x}, {"output": numpy(output)})


@peer("NystromAttention", "transformers NystromformerSelfAttention")
def transformers_nystromformer(rng: np.random.Generator) -> Comparison:
    config = NystromformerConfig(
        hidden_size=12,
        num_attention_heads=3,
        num_landmarks=4,
        segment_means_seq_len=12,
        conv_kernel_size=3,
        inv_coeff_init_option=False,
    )
    theirs = NystromformerSelfAttention(config).double().eval()
    theirs.init_option = "exact"  # one norm per matrix; the default uses one norm for the whole batch
    for parameter in theirs.parameters():
        parameter.data = torch.from_numpy(0.4 * rng.standard_normal(parameter.shape))
    x = rng.standard_normal((2, 12, 12))
    (output,) = theirs(torch.from_numpy(x))
    weights = weights_of(theirs, q_proj="query", k_proj="key", v_proj="value", value_conv="conv")
    weights["value_conv.weight"] = weights["value_conv.weight"][..., 0]  # from a two-dimensional convolution
    weights |= {"out_proj.weight": np.eye(12), "out_proj.bias": np.zeros(12)}
    module = Part("NystromAttention", {"embed_dim": 12, "num_heads": 3, "num_landmarks": 4, "kernel_size": 3})
    return Comparison(module, weights, {"x": x}, {"output": numpy(output)})


def nystrom_package(rng: np.random.Generator, mask: np.ndarray | None = None) -> Comparison:
    """One head and one sequence of 9 positions in 3 segments, because the package uses one norm for the whole batch."""
    theirs = nystrom_attention.NystromAttention(
        dim=8, dim_head=8, heads=1, num_landmarks=3, residual_conv_kernel=5, eps=0.0
    )
    theirs = theirs.double().eval()
    for parameter in theirs.parameters():
        parameter.data = torch.from_numpy(0.4 * rng.standard_normal(parameter.shape))
    x = rng.standard_normal((1, 9, 8))
    shown = None if mask is None else torch.from_numpy(mask)
    output, attention = theirs(torch.from_numpy(x), mask=shown, return_attn=True)
    packed = numpy(theirs.to_qkv.weight)
    weights = {f"{name}_proj.weight": part for name, part in zip("qkv", np.split(packed, 3), strict=True)}
    weights |= {f"{name}_proj.bias": np.zeros(8) for name in "qkv"}
    weights |= weights_of(theirs, out_proj="to_out.0")
    weights["value_conv.weight"] = numpy(theirs.res_conv.weight)[..., 0]  # from a two-dimensional convolution
    module = Part("NystromAttention", {"embed_dim": 8, "num_heads": 1, "num_landmarks": 3, "kernel_size": 5})
    inputs = {"x": x} if mask is None else {"x": x, "mask": mask[:, None, None]}
    return Comparison(module, weights, inputs, {"output": numpy(output), "weights": numpy(attention)})


@peer("NystromAttention", "nystrom-attention NystromAttention")
def nystrom_attention_package(rng: np.random.Generator) -> Comparison:
    return nystrom_package(rng)
