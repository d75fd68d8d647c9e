"""Peers of attention for images."""

import numpy as np
import torch
from axial_attention import AxialAttention
from transformers import SegformerConfig, SwinConfig, Swinv2Config, ViTConfig, VitDetConfig
from transformers.models.segformer.modeling_segformer import SegformerAttention
from transformers.models.swin.modeling_swin import SwinLayer
from transformers.models.swinv2.modeling_swinv2 import Swinv2Layer
from transformers.models.vit.modeling_vit import ViTEmbeddings, ViTLayer
from transformers.models.vitdet.modeling_vitdet import VitDetAttention

from attention_bridge.catalogue import Part
from attention_bridge.parity.run import Arrays
from parity_tests.peers import Comparison, numpy, peer, weights_of

VIT = {
    "attention.q_proj": "attention.q_proj",
    "attention.k_proj": "attention.k_proj",
    "attention.v_proj": "attention.v_proj",
    "attention.out_proj": "attention.o_proj",
    "attention_norm": "layernorm_before",
    "ffn.up_proj": "mlp.fc1",
    "ffn.down_proj": "mlp.fc2",
    "ffn_norm": "layernorm_after",
}
HEADS = {f"{name}_proj": f"{name}_proj" for name in "qkv"} | {"out_proj": "o_proj"}


def vit_config() -> ViTConfig:
    config = ViTConfig(
        hidden_size=12, num_attention_heads=3, intermediate_size=13, image_size=(6, 4), patch_size=2
    )
    config._attn_implementation = "eager"
    return config


@torch.no_grad()
def redraw(module: torch.nn.Module, rng: np.random.Generator) -> torch.nn.Module:
    """Fill every parameter with random numbers, because some start at zero or one, or too small to show an error."""
    for parameter in module.parameters():
        parameter.copy_(torch.from_numpy(0.4 * rng.standard_normal(parameter.shape)))
    return module.eval()


@peer("ViTBlock", "transformers ViTLayer")
def vit(rng: np.random.Generator) -> Comparison:
    theirs = redraw(ViTLayer(vit_config()), rng)  # its softmax is always float32
    x = rng.standard_normal((2, 5, 12)).astype(np.float32)
    module = Part("ViTBlock", {"embed_dim": 12, "num_heads": 3, "ffn_dim": 13, "norm_eps": 1e-12})
    expected = {"output": numpy(theirs(torch.from_numpy(x)))}
    return Comparison(module, weights_of(theirs, **VIT), {"x": x}, expected)


def patch_weights(theirs: ViTEmbeddings) -> Arrays:
    """The weights of `ViTEmbeddings` by the mirrors' names."""
    return {
        **weights_of(theirs, patch_proj="patch_embeddings.projection"),
        "class_token": numpy(theirs.cls_token)[0, 0],
        "positions": numpy(theirs.position_embeddings)[0],
    }


@peer("ViTBlock", "transformers ViTEmbeddings")  # the embedding before the blocks
def vit_embeddings(rng: np.random.Generator) -> Comparison:
    theirs = redraw(ViTEmbeddings(vit_config()), rng).double()
    image = rng.standard_normal((2, 6, 4, 3))
    part = {"image_size": (6, 4), "patch_size": (2, 2), "in_channels": 3, "embed_dim": 12}
    expected = {"output": numpy(theirs(torch.from_numpy(image).permute(0, 3, 1, 2)))}
    return Comparison(Part("PatchEmbedding", part), patch_weights(theirs), {"image": image}, expected)


def swin_attention(theirs: SwinLayer, x: np.ndarray) -> Arrays:
    """Output and weights of a layer's attention, without the norm before it and the layers after it."""
    found = {}
    theirs.layernorm_before = torch.nn.Identity()
    theirs.layernorm_after.register_forward_pre_hook(lambda _, given: found.update(sum=given[0]))
    batch, height, width, channels = x.shape
    flat = torch.from_numpy(x).reshape(batch, height * width, channels)
    _, weights = theirs(flat, (height, width))
    return {
        "output": numpy((found["sum"] - flat).reshape(x.shape)),
        "weights": numpy(weights.reshape(batch, -1, *weights.shape[1:])),
    }


def swin(rng: np.random.Generator, shift: int) -> Comparison:
    # Windows of 3 by 3 do not tile the grid, so both pad it. In transformers masked scores are -100 instead of -inf,
    # and the softmax is float32.
    config = SwinConfig(window_size=3)
    config._attn_implementation = "eager"
    theirs = redraw(SwinLayer(config, 12, (5, 7), 3, shift_size=shift), rng)
    x = rng.standard_normal((2, 5, 7, 12)).astype(np.float32)
    arguments = {"embed_dim": 12, "num_heads": 3, "window_size": 3}
    ours = (
        Part("ShiftedWindowAttention", {**arguments, "shift": shift})
        if shift
        else Part("WindowAttention", arguments)
    )
    table = "relative_position_bias.relative_position_bias_table"
    weights = weights_of(theirs.attention, **HEADS, position_bias=table)
    weights = {f"attention.{name}" if shift else name: w for name, w in weights.items()}
    return Comparison(ours, weights, {"x": x}, swin_attention(theirs, x))


@peer("WindowAttention", "transformers SwinLayer")
def windows(rng: np.random.Generator) -> Comparison:
    return swin(rng, shift=0)


@peer("ShiftedWindowAttention", "transformers SwinLayer")
def shifted_windows(rng: np.random.Generator) -> Comparison:
    return swin(rng, shift=1)


@peer("CosineWindowAttention", "transformers Swinv2Layer")
def cosine_windows(rng: np.random.Generator) -> Comparison:
    # The offsets of transformers are float32, and masked scores -200 instead of -inf.
    layer = Swinv2Layer(Swinv2Config(window_size=3), 12, (5, 7), 3, shift_size=1, pretrained_window_size=5)
    theirs, found = redraw(layer, rng), {}
    theirs.layernorm_before.register_forward_pre_hook(lambda _, given: found.update(output=given[0]))
    x = rng.standard_normal((2, 5, 7, 12)).astype(np.float32)
    _, weights = theirs(torch.from_numpy(x).reshape(2, 35, 12), (5, 7), output_attentions=True)
    network = "self.continuous_position_bias_mlp"
    names = {"q_proj": "self.query", "v_proj": "self.value", "out_proj": "output.dense"}
    names |= {"position_hidden_proj": f"{network}.0"}
    attention = theirs.attention
    given = {
        **weights_of(attention, **names),
        "k_proj.weight": numpy(attention.self.key.weight),
        "k_proj.bias": np.zeros(12, np.float32),
        "position_proj.weight": numpy(attention.self.continuous_position_bias_mlp[2].weight),
        "logit_scale": numpy(attention.self.logit_scale)[:, 0, 0],
    }
    expected = {
        "output": numpy(found["output"]).reshape(x.shape),
        "weights": numpy(weights.reshape(2, -1, *weights.shape[1:])),
    }
    sizes = {"embed_dim": 12, "num_heads": 3, "window_size": 3, "shift": 1, "pretrained_window": 5}
    return Comparison(Part("CosineWindowAttention", sizes), given, {"x": x}, expected)


@peer("SpatialReductionAttention", "transformers SegformerAttention")
def segformer(rng: np.random.Generator) -> Comparison:
    config = SegformerConfig()
    config._attn_implementation = "eager"
    theirs = redraw(SegformerAttention(config, 12, 3, 2), rng)  # its softmax is always float32
    x = rng.standard_normal((2, 5, 7, 12)).astype(np.float32)
    output, weights = theirs(torch.from_numpy(x).reshape(2, 35, 12), 5, 7)
    names = {
        **HEADS,
        "reduction_proj": "sequence_reduction.sequence_reduction",
        "reduction_norm": "sequence_reduction.layer_norm",
    }
    module = Part("SpatialReductionAttention", {"embed_dim": 12, "num_heads": 3, "reduction": 2})
    expected = {"output": numpy(output).reshape(x.shape), "weights": numpy(weights)}
    return Comparison(module, weights_of(theirs, **names), {"x": x}, expected)


@peer("AxialAttention", "axial_attention AxialAttention")
def axial(rng: np.random.Generator) -> Comparison:
    theirs = redraw(AxialAttention(dim=12, heads=3), rng).double()
    x = rng.standard_normal((2, 5, 7, 12))
    weights = {}
    for number, name in enumerate(("height_attention", "width_attention")):
        attention = theirs.axial_attentions[number].fn
        key, value = numpy(attention.to_kv.weight).reshape(2, 12, 12)
        weights |= weights_of(attention, **{f"{name}.q_proj": "to_q", f"{name}.out_proj": "to_out"})
        weights |= {f"{name}.k_proj.weight": key, f"{name}.v_proj.weight": value}
        # In axial_attention only the output projection has a bias.
        weights |= {f"{name}.{projection}_proj.bias": np.zeros(12) for projection in "qkv"}
    module = Part("AxialAttention", {"embed_dim": 12, "num_heads": 3})
    return Comparison(module, weights, {"x": x}, {"output": numpy(theirs(torch.from_numpy(x)))})


@peer("DecomposedPositionAttention", "transformers VitDetAttention")
def vitdet(rng: np.random.Generator) -> Comparison:
    config = VitDetConfig(hidden_size=12, num_attention_heads=3, use_relative_position_embeddings=True)
    theirs = redraw(VitDetAttention(config, input_size=(5, 4)), rng).double()
    x = rng.standard_normal((2, 5, 4, 12))
    output, weights = theirs(torch.from_numpy(x), output_attentions=True)
    packed = zip(
        "qkv", *(numpy(t).reshape(3, 12, -1) for t in (theirs.qkv.weight, theirs.qkv.bias)), strict=True
    )
    ours = {
        **{
            f"{name}_proj.{kind}": t
            for name, w, b in packed
            for kind, t in (("weight", w), ("bias", b[:, 0]))
        },
        **weights_of(theirs, out_proj="proj", height_positions="rel_pos_h", width_positions="rel_pos_w"),
    }
    module = Part("DecomposedPositionAttention", {"embed_dim": 12, "num_heads": 3, "grid_size": (5, 4)})
    return Comparison(module, ours, {"x": x}, {"output": numpy(output), "weights": numpy(weights)})
