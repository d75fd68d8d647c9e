"""Peers of attention with learned queries or latents, and over sets."""

import numpy as np
import torch
from slot_attention import SlotAttention
from torch import nn
from transformers import PerceiverConfig, SiglipVisionConfig
from transformers.models.perceiver.modeling_perceiver import PerceiverAttention
from transformers.models.siglip.modeling_siglip import SiglipMultiheadAttentionPoolingHead

from attention_bridge.catalogue import Part
from attention_bridge.parity.run import Arrays
from parity_tests.peers import Comparison, numpy, peer, weights_of

TORCH = "torch MultiheadAttention, LayerNorm and Linear"


@torch.no_grad()
def redraw(module: nn.Module, rng: np.random.Generator) -> nn.Module:
    """Fill every parameter with random numbers, because some start at zero or one; converts to float64."""
    for parameter in module.parameters():
        parameter.copy_(torch.from_numpy(0.4 * rng.standard_normal(parameter.shape)))
    return module.double().eval()


def packed_attention(theirs: nn.MultiheadAttention) -> Arrays:
    """The weights of `nn.MultiheadAttention` by the mirrors' names."""
    packed = [numpy(x).reshape(3, theirs.embed_dim, -1) for x in (theirs.in_proj_weight, theirs.in_proj_bias)]
    return weights_of(theirs, out_proj="out_proj") | {
        f"{name}_proj.{kind}": x
        for name, weight, bias in zip("qkv", *packed, strict=True)
        for kind, x in (("weight", weight), ("bias", bias[:, 0]))
    }


@peer("PerceiverAttention", "transformers PerceiverAttention")
def perceiver(rng: np.random.Generator) -> Comparison:
    theirs = redraw(
        PerceiverAttention(
            PerceiverConfig(),
            is_cross_attention=True,
            qk_channels=12,
            v_channels=12,
            num_heads=3,
            q_dim=8,
            kv_dim=10,
        ),
        rng,
    )
    x, latents = rng.standard_normal((2, 7, 10)), rng.standard_normal((5, 8))
    seen = rng.random((2, 1, 1, 7)) < 0.7
    output, weights = theirs(
        torch.from_numpy(latents).expand(2, 5, 8),
        inputs=torch.from_numpy(x),
        inputs_mask=torch.where(torch.from_numpy(seen), 0.0, -torch.inf),
        output_attentions=True,
    )
    names = {
        "latent_norm": "self.layernorm1",
        "input_norm": "self.layernorm2",
        "q_proj": "self.query",
        "k_proj": "self.key",
        "v_proj": "self.value",
        "out_proj": "output.dense",
    }
    ours = {"num_latents": 5, "latent_dim": 8, "input_dim": 10, "num_heads": 3, "embed_dim": 12}
    return Comparison(
        Part("PerceiverAttention", ours),
        {**weights_of(theirs, **names), "latents": latents},
        {"x": x, "mask": seen},
        {"output": numpy(output), "weights": numpy(weights)},
    )


@peer("AttentionPooling", "transformers SiglipMultiheadAttentionPoolingHead")
def siglip(rng: np.random.Generator) -> Comparison:
    config = SiglipVisionConfig(hidden_size=12, num_attention_heads=3, intermediate_size=13)
    theirs = redraw(SiglipMultiheadAttentionPoolingHead(config), rng)
    x = rng.standard_normal((2, 7, 12))
    weights = {f"attention.{name}": w for name, w in packed_attention(theirs.attention).items()}
    names = {"ffn_norm": "layernorm", "ffn.up_proj": "mlp.fc1", "ffn.down_proj": "mlp.fc2"}
    weights |= {**weights_of(theirs, **names), "probes": numpy(theirs.probe)[0]}
    ours = {"embed_dim": 12, "num_heads": 3, "ffn_dim": 13}
    output = theirs(torch.from_numpy(x))[:, None]  # transformers drops the axis of the single probe
    return Comparison(Part("AttentionPooling", ours), weights, {"x": x}, {"output": numpy(output)})


class Block(nn.Module):
    """The block of a Set Transformer, made of PyTorch's own layers as in PyTorch Geometric."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.linear = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """MAB(x, y) and the weights of every head."""
        attended, weights = self.attention(x, y, y, average_attn_weights=False)
        hidden = self.norm1(x + attended)
        return self.norm2(hidden + self.linear(hidden).relu()), weights

    def by_our_names(self, prefix: str = "") -> Arrays:
        """The weights by the mirrors' names, with the query projection multiplied by √heads.

        PyTorch divides scores by the root of the head dimension, the paper by the root of the embedding dimension.
        """
        weights = packed_attention(self.attention)
        weights |= weights_of(self, attention_norm="norm1", ffn_norm="norm2", ffn_proj="linear")
        root = self.attention.num_heads**0.5
        weights |= {name: root * weights[name] for name in ("q_proj.weight", "q_proj.bias")}
        return {f"{prefix}{name}": x for name, x in weights.items()}


@peer("MultiheadAttentionBlock", TORCH)
def block(rng: np.random.Generator) -> Comparison:
    theirs = redraw(Block(12, 4), rng)
    query, memory = rng.standard_normal((2, 5, 12)), rng.standard_normal((2, 7, 12))
    output, weights = theirs(torch.from_numpy(query), torch.from_numpy(memory))
    module = Part("MultiheadAttentionBlock", {"embed_dim": 12, "num_heads": 4})
    inputs = {"query": query, "memory": memory}
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, theirs.by_our_names(), inputs, expected)


@peer("SetAttentionBlock", TORCH)
def set_block(rng: np.random.Generator) -> Comparison:
    theirs = redraw(Block(12, 4), rng)
    x = rng.standard_normal((2, 5, 12))
    output, weights = theirs(torch.from_numpy(x), torch.from_numpy(x))
    module = Part("SetAttentionBlock", {"embed_dim": 12, "num_heads": 4})
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, theirs.by_our_names("block."), {"x": x}, expected)


@peer("InducedSetAttentionBlock", TORCH)
def induced(rng: np.random.Generator) -> Comparison:
    first, second = (redraw(Block(12, 4), rng) for _ in range(2))
    x, points = rng.standard_normal((2, 7, 12)), rng.standard_normal((5, 12))
    summary, inducing_weights = first(torch.from_numpy(points).expand(2, 5, 12), torch.from_numpy(x))
    output, weights = second(torch.from_numpy(x), summary)
    module = Part("InducedSetAttentionBlock", {"embed_dim": 12, "num_heads": 4, "num_inducing": 5})
    ours = {
        **first.by_our_names("inducing_block."),
        **second.by_our_names("block."),
        "inducing_points": points,
    }
    expected = {"output": output, "weights": weights, "inducing_weights": inducing_weights}
    return Comparison(module, ours, {"x": x}, {name: numpy(found) for name, found in expected.items()})


@peer("PoolingByAttention", TORCH)
def pooling(rng: np.random.Generator) -> Comparison:
    linear, theirs = redraw(nn.Linear(12, 12), rng), redraw(Block(12, 4), rng)
    x, seeds = rng.standard_normal((2, 7, 12)), rng.standard_normal((5, 12))
    elements = linear(torch.from_numpy(x)).relu()
    output, weights = theirs(torch.from_numpy(seeds).expand(2, 5, 12), elements)
    module = Part("PoolingByAttention", {"embed_dim": 12, "num_heads": 4, "num_seeds": 5})
    ours = {f"ffn_proj.{name}": numpy(w) for name, w in linear.state_dict().items()}
    ours |= {**theirs.by_our_names("block."), "seeds": seeds}
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, ours, {"x": x}, expected)


@peer("SlotAttention", "slot_attention SlotAttention")
def slots(rng: np.random.Generator) -> Comparison:
    theirs = redraw(SlotAttention(num_slots=5, dim=12, iters=3, hidden_dim=13), rng)
    x = rng.standard_normal((2, 7, 12))
    torch.manual_seed(0)
    noise = torch.randn(2, 5, 12, dtype=torch.float64)
    torch.manual_seed(0)  # so that the layer samples the same noise
    output = theirs(torch.from_numpy(x))
    names = {
        "q_proj": "to_q",
        "k_proj": "to_k",
        "v_proj": "to_v",
        "gru": "gru",
        "ffn.up_proj": "mlp.0",
        "ffn.down_proj": "mlp.2",
        "input_norm": "norm_input",
        "slot_norm": "norm_slots",
        "ffn_norm": "norm_pre_ff",
    }
    weights = weights_of(theirs, **names)
    weights |= {"mean": numpy(theirs.slots_mu)[0, 0], "log_sigma": numpy(theirs.slots_logsigma)[0, 0]}
    module = Part("SlotAttention", {"input_dim": 12, "slot_dim": 12, "ffn_dim": 13, "bias": True})
    return Comparison(module, weights, {"x": x, "noise": numpy(noise)}, {"output": numpy(output)})
