"""Peers of the mechanisms that change the scores or the softmax."""

from collections.abc import Callable
from functools import partial

import entmax
import numpy as np
import torch
import x_transformers
from transformers import Gemma2Config, Olmo2Config, PreTrainedConfig, Qwen3Config, Swinv2Config
from transformers.models.gemma2.modeling_gemma2 import Gemma2Attention, Gemma2RotaryEmbedding
from transformers.models.olmo2.modeling_olmo2 import Olmo2Attention, Olmo2RotaryEmbedding
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention, Qwen3RotaryEmbedding
from transformers.models.swinv2.modeling_swinv2 import Swinv2SelfAttention

from attention_bridge.catalogue import Part
from attention_bridge.parity.run import Arrays
from parity_tests.peers import Comparison, numpy, peer, randomise, weights_of

GROUPED = {
    "hidden_size": 24,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "attention_bias": False,
}
OURS = {
    "embed_dim": 24,
    "num_heads": 6,
    "num_kv_heads": 2,
    "head_dim": 8,
    "is_causal": True,
    "bias": False,
    "position": Part("RotaryEmbedding", {"head_dim": 8}),
}
HUGGING_FACE = {f"{name}_proj": f"{name}_proj" for name in "qkv"} | {"out_proj": "o_proj"}
X_TRANSFORMERS = {f"{name}_proj": f"to_{name}" for name in "qkv"} | {"out_proj": "to_out"}


def causal_decoder(
    attention: torch.nn.Module, rotary: torch.nn.Module, rng: np.random.Generator
) -> tuple[np.ndarray, Arrays]:
    """A random input and the outputs of a causal layer of transformers, in float32 because its softmax is float32."""
    randomise(attention, rng)
    x = rng.standard_normal((2, 5, 24)).astype(np.float32)
    causal = torch.full((5, 5), -torch.inf).triu(1)[None, None]
    turns = rotary(torch.zeros(1), torch.arange(5)[None])
    output, weights = attention.eval()(torch.from_numpy(x), turns, causal)
    return x, {"output": numpy(output), "weights": numpy(weights)}


def eager(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration with eager attention, which returns its weights."""
    config._attn_implementation = "eager"
    return config


@peer("SoftcapAttention", "transformers Gemma2Attention")
def gemma_2(rng: np.random.Generator) -> Comparison:
    config = eager(Gemma2Config(**GROUPED, query_pre_attn_scalar=5, attn_logit_softcapping=0.7))
    theirs = Gemma2Attention(config, layer_idx=0)
    x, expected = causal_decoder(theirs, Gemma2RotaryEmbedding(config), rng)
    module = Part("SoftcapAttention", {**OURS, "softcap": 0.7, "scale": 5**-0.5})
    return Comparison(module, weights_of(theirs, **HUGGING_FACE), {"x": x}, expected)


@peer("QKNormAttention", "transformers Qwen3Attention")
def qwen_3(rng: np.random.Generator) -> Comparison:
    config = eager(Qwen3Config(**GROUPED))
    theirs = Qwen3Attention(config, layer_idx=0)
    x, expected = causal_decoder(theirs, Qwen3RotaryEmbedding(config), rng)
    weights = weights_of(theirs, **HUGGING_FACE, q_norm="q_norm", k_norm="k_norm")
    return Comparison(Part("QKNormAttention", OURS), weights, {"x": x}, expected)


@peer("FullWidthQKNormAttention", "transformers Olmo2Attention")
def olmo_2(rng: np.random.Generator) -> Comparison:
    config = eager(Olmo2Config(**GROUPED, rms_norm_eps=1e-5))
    theirs = Olmo2Attention(config, layer_idx=0)
    x, expected = causal_decoder(theirs, Olmo2RotaryEmbedding(config), rng)
    weights = weights_of(theirs, **HUGGING_FACE, q_norm="q_norm", k_norm="k_norm")
    return Comparison(Part("FullWidthQKNormAttention", {**OURS, "eps": 1e-5}), weights, {"x": x}, expected)


@peer("CosineAttention", "transformers Swinv2SelfAttention")
def swin_v2(rng: np.random.Generator) -> Comparison:
    theirs = Swinv2SelfAttention(Swinv2Config(), dim=12, num_heads=3, window_size=(2, 3)).double().eval()
    randomise(theirs, rng)
    with torch.no_grad():
        theirs.continuous_position_bias_mlp[-1].weight.zero_()  # its bias is then 8 everywhere and cancels
        theirs.logit_scale.copy_(torch.tensor([0.5, 2.0, 5.0])[:, None, None])  # the last exceeds log 100
    x = rng.standard_normal((2, 6, 12))
    output, weights = theirs(torch.from_numpy(x), output_attentions=True)
    ours = {
        **weights_of(theirs, q_proj="query", k_proj="key", v_proj="value"),
        "k_proj.bias": np.zeros(12),  # transformers has none
        "logit_scale": numpy(theirs.logit_scale)[:, 0, 0],
        "out_proj.weight": np.eye(12),  # in another module in transformers
        "out_proj.bias": np.zeros(12),
    }
    module = Part("CosineAttention", {"embed_dim": 12, "num_heads": 3})
    return Comparison(module, ours, {"x": x}, {"output": numpy(output), "weights": numpy(weights)})


def x_transformers_attention(
    rng: np.random.Generator, **options: object
) -> tuple[torch.nn.Module, Arrays, np.ndarray, Arrays]:
    """A causal layer of x-transformers with 3 heads of 4 features, its weights, a random input and its outputs."""
    if "sigmoid" not in options:
        options.setdefault("custom_attn_fn", partial(torch.softmax, dim=-1))  # its own softmax is float32
    theirs = x_transformers.Attention(dim=12, dim_head=4, heads=3, causal=True, **options).double().eval()
    randomise(theirs, rng)
    x = rng.standard_normal((2, 5, 12))
    output, between = theirs(torch.from_numpy(x), return_intermediates=True)
    expected = {"output": numpy(output), "weights": numpy(between.post_softmax_attn)}
    return theirs, weights_of(theirs, **X_TRANSFORMERS), x, expected


@peer("SigmoidAttention", "x-transformers Attention(sigmoid)")
def x_transformers_sigmoid(rng: np.random.Generator) -> Comparison:
    _, weights, x, expected = x_transformers_attention(rng, sigmoid=True)
    arguments = {"embed_dim": 12, "num_heads": 3, "is_causal": True, "bias": False}
    # x-transformers does not subtract the logarithm of the number of keys.
    return Comparison(Part("SigmoidAttention", {**arguments, "shift": 0.0}), weights, {"x": x}, expected)


def with_entmax(rng: np.random.Generator, name: str, transform: Callable[..., torch.Tensor]) -> Comparison:
    """x-transformers' attention with a function of the `entmax` package in place of the softmax."""
    _, weights, x, expected = x_transformers_attention(rng, custom_attn_fn=partial(transform, dim=-1))
    arguments = {"embed_dim": 12, "num_heads": 3, "is_causal": True, "bias": False}
    return Comparison(Part(name, arguments), weights, {"x": x}, expected)


@peer("SparsemaxAttention", "entmax sparsemax")
def sparsemax(rng: np.random.Generator) -> Comparison:
    return with_entmax(rng, "SparsemaxAttention", entmax.sparsemax)


@peer("Entmax15Attention", "entmax entmax15")
def entmax15(rng: np.random.Generator) -> Comparison:
    return with_entmax(rng, "Entmax15Attention", entmax.entmax15)


@peer("TalkingHeadsAttention", "x-transformers Attention(talking heads)")
def x_transformers_talking_heads(rng: np.random.Generator) -> Comparison:
    theirs, weights, x, expected = x_transformers_attention(
        rng, pre_talking_heads=True, post_talking_heads=True
    )
    before, after = (
        numpy(getattr(theirs.attend, f"{name}_softmax_talking_heads").weight)[:, :, 0, 0]
        for name in ("pre", "post")
    )
    # x-transformers adds the scores to the mixed scores.
    maps = {"pre_map": np.eye(3) + before, "post_map": after}
    arguments = {"embed_dim": 12, "num_heads": 3, "is_causal": True, "bias": False}
    # It returns the weights before the second map, so only outputs are compared.
    only = {"output": expected["output"]}
    return Comparison(Part("TalkingHeadsAttention", arguments), {**weights, **maps}, {"x": x}, only)
