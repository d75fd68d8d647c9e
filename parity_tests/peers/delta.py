"""Peers of the delta-rule layers and of Mamba-2."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import KimiLinearConfig, Lfm2Config, Mamba2Config, Qwen3NextConfig
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

from attention_bridge.catalogue import Part
from attention_bridge.parity.run import Arrays
from parity_tests.peers import Comparison, numpy, peer, weights_of

FIXTURE = Path(__file__).parents[1] / "fixtures" / "delta.safetensors"
EMBED, CHUNKS = 24, {"chunk_size": 4}  # inputs have 9 tokens


def fixture(name: str, **arguments: Any) -> Comparison:
    """One result of flash-linear-attention from the file that `fixtures/make_delta.py` writes, in float32."""
    of = {
        key.removeprefix(f"{name}/"): x for key, x in load_file(FIXTURE).items() if key.startswith(f"{name}/")
    }
    expected = {key.removeprefix("expected."): of.pop(key) for key in list(of) if key.startswith("expected.")}
    module = Part(name, {"embed_dim": EMBED, **CHUNKS, **arguments})
    return Comparison(module, of, {"x": of.pop("x")}, expected)


@peer("DeltaNet", "flash-linear-attention DeltaNet")
def delta_net(rng: np.random.Generator) -> Comparison:
    return fixture("DeltaNet", num_heads=3)


@peer("GatedDeltaNet", "flash-linear-attention GatedDeltaNet")
def gated_delta_net(rng: np.random.Generator) -> Comparison:
    return fixture("GatedDeltaNet", num_heads=2, num_value_heads=4, head_dim=8, value_dim=4, eps=1e-5)


@peer("KimiDeltaAttention", "flash-linear-attention KimiDeltaAttention")
def kimi_delta_attention(rng: np.random.Generator) -> Comparison:
    return fixture("KimiDeltaAttention", num_heads=3, head_dim=8, value_dim=4)


@torch.no_grad()
def randomise(module: torch.nn.Module, rng: np.random.Generator) -> torch.nn.Module:
    """Fill every parameter with random numbers; norm weights are around 1."""
    for name, parameter in module.named_parameters():
        drawn = 0.4 * rng.standard_normal(parameter.shape) + name.endswith("norm.weight")
        parameter.copy_(torch.from_numpy(drawn.astype(np.float32)))
    return module.eval()


def qwen3_next_weights(theirs: Qwen3NextGatedDeltaNet) -> Arrays:
    """Weights with the packed projections split; they hold, per key head, query, key, values and gates, or b and a."""
    weights = weights_of(
        theirs, conv="conv1d", norm="norm", out_proj="out_proj", A_log="A_log", dt_bias="dt_bias"
    )
    heads, per_head = theirs.num_k_heads, theirs.num_v_heads // theirs.num_k_heads
    sizes = {
        "in_proj_qkvz": {
            "q": theirs.head_k_dim,
            "k": theirs.head_k_dim,
            "v": per_head * theirs.head_v_dim,
            "z": per_head * theirs.head_v_dim,
        },
        "in_proj_ba": {"b": per_head, "a": per_head},
    }
    for packed, parts in sizes.items():
        rows = numpy(getattr(theirs, packed).weight).reshape(heads, sum(parts.values()), -1)
        ends = np.cumsum(list(parts.values()))[:-1]
        for name, part in zip(parts, np.split(rows, ends, axis=1), strict=True):
            weights[f"{name}_proj.weight"] = part.reshape(-1, theirs.hidden_size).copy()
    return weights


# All three always compute in float32.
@peer("GatedDeltaNet", "transformers Qwen3NextGatedDeltaNet")
def qwen3_next(rng: np.random.Generator) -> Comparison:
    config = Qwen3NextConfig(
        hidden_size=EMBED,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=6,
        linear_value_head_dim=5,
    )
    theirs = randomise(Qwen3NextGatedDeltaNet(config, layer_idx=0), rng)
    x = rng.standard_normal((2, 9, EMBED)).astype(np.float32)
    sizes = {"num_heads": 2, "num_value_heads": 4, "head_dim": 6, "value_dim": 5}
    module = Part("GatedDeltaNet", {"embed_dim": EMBED, **sizes, **CHUNKS})
    output = theirs(torch.from_numpy(x))
    return Comparison(module, qwen3_next_weights(theirs), {"x": x}, {"output": numpy(output)})


@peer("KimiDeltaAttention", "transformers KimiLinearDeltaAttention")
def kimi_linear(rng: np.random.Generator) -> Comparison:
    config = KimiLinearConfig(
        hidden_size=EMBED,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_heads=3,
        linear_head_dim=5,
    )
    theirs = randomise(KimiLinearDeltaAttention(config, layer_idx=0), rng)
    x = rng.standard_normal((2, 9, EMBED)).astype(np.float32)
    same = ("q_proj", "k_proj", "v_proj", "b_proj", "g_a_proj", "g_b_proj")
    gate = {f"{name}": f"forget_gate.{name}" for name in ("f_a_proj", "f_b_proj", "A_log", "dt_bias")}
    weights = weights_of(
        theirs, conv="conv1d", norm="o_norm", out_proj="o_proj", **dict(zip(same, same, strict=True)), **gate
    )
    weights["A_log"] = weights["A_log"].reshape(-1)  # (1, 1, heads, 1) in transformers
    module = Part("KimiDeltaAttention", {"embed_dim": EMBED, "num_heads": 3, "head_dim": 5, **CHUNKS})
    output = theirs(torch.from_numpy(x))
    return Comparison(module, weights, {"x": x}, {"output": numpy(output)})


@peer("Mamba2", "transformers Mamba2Mixer")
def mamba2(rng: np.random.Generator) -> Comparison:
    config = Mamba2Config(
        hidden_size=EMBED,
        num_hidden_layers=1,
        num_heads=6,
        head_dim=8,
        state_size=5,
        n_groups=3,
        expand=2,
        chunk_size=4,
    )
    theirs = randomise(Mamba2Mixer(config, layer_idx=0), rng)
    x = rng.standard_normal((2, 9, EMBED)).astype(np.float32)
    same = ("in_proj", "out_proj", "A_log", "dt_bias", "D")
    weights = weights_of(theirs, conv="conv1d", **dict(zip(same, same, strict=True)))
    weights["norm_scale"] = numpy(theirs.norm.weight)
    module = Part("Mamba2", {"embed_dim": EMBED, "num_heads": 6, "state_dim": 5, "num_groups": 3, **CHUNKS})
    output = theirs(torch.from_numpy(x))
    return Comparison(module, weights, {"x": x}, {"output": numpy(output)})


@peer("GatedShortConvolution", "transformers Lfm2ShortConv")
def lfm2(rng: np.random.Generator) -> Comparison:
    config = Lfm2Config(
        hidden_size=EMBED, num_hidden_layers=1, layer_types=["conv"], conv_L_cache=4, conv_bias=True
    )
    theirs = randomise(Lfm2ShortConv(config, layer_idx=0), rng)
    x = rng.standard_normal((2, 9, EMBED)).astype(np.float32)
    weights = weights_of(theirs, in_proj="in_proj", conv="conv", out_proj="out_proj")
    module = Part("GatedShortConvolution", {"embed_dim": EMBED, "conv_width": 4, "bias": True})
    return Comparison(module, weights, {"x": x}, {"output": numpy(theirs(torch.from_numpy(x)))})
