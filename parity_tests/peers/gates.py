"""Peers of gated, differential and forgetting attention."""

import os
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file
from transformers import AfmoeConfig, DiffLlamaConfig, Qwen3NextConfig
from transformers.models.afmoe.modeling_afmoe import AfmoeAttention, AfmoeRotaryEmbedding
from transformers.models.diffllama.modeling_diffllama import DiffLlamaAttention, DiffLlamaRotaryEmbedding
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextAttention, Qwen3NextRotaryEmbedding

from attention_bridge.catalogue import Part
from parity_tests.peers import Comparison, numpy, peer, weights_of
from parity_tests.peers.scores import (
    GROUPED,
    HUGGING_FACE,
    OURS,
    causal_decoder,
    eager,
    x_transformers_attention,
)

os.environ.setdefault("KERAS_BACKEND", "torch")

FIXTURES = Path(__file__).parents[1] / "fixtures"
LAMBDAS = ("lambda_q1", "lambda_k1", "lambda_q2", "lambda_k2")


def norms(eps: float) -> dict[str, Part]:
    """RMS norms for queries and keys of 8 features."""
    return {name: Part("rms_norm", {"dim": 8, "eps": eps}) for name in ("q_norm", "k_norm")}


@peer("GatedAttention", "transformers Qwen3NextAttention")
def qwen_3_next(rng: np.random.Generator) -> Comparison:
    turned = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    config = eager(Qwen3NextConfig(**GROUPED, rope_parameters=turned))
    theirs = Qwen3NextAttention(config, layer_idx=0)
    x, expected = causal_decoder(theirs, Qwen3NextRotaryEmbedding(config), rng)
    # Each head has 8 rows for the query and 8 for the gate in `q_proj`; the norms store γ − 1.
    packed = numpy(theirs.q_proj.weight).reshape(6, 2, 8, 24)
    weights = {
        **weights_of(theirs, k_proj="k_proj", v_proj="v_proj", out_proj="o_proj"),
        "q_proj.weight": packed[:, 0].reshape(48, 24),
        "gate_proj.weight": packed[:, 1].reshape(48, 24),
        "q_norm.weight": 1 + numpy(theirs.q_norm.weight),
        "k_norm.weight": 1 + numpy(theirs.k_norm.weight),
    }
    position = Part("RotaryEmbedding", {"head_dim": 8, "rotary_dim": 4})
    module = Part("GatedAttention", {**OURS, **norms(config.rms_norm_eps), "position": position})
    return Comparison(module, weights, {"x": x}, expected)


@peer("GatedAttention", "transformers AfmoeAttention")
def afmoe(rng: np.random.Generator) -> Comparison:
    sizes = {name: size for name, size in GROUPED.items() if name != "attention_bias"}
    config = eager(AfmoeConfig(**sizes, num_hidden_layers=1, layer_types=["sliding_attention"]))
    config.attention_bias = False
    theirs = AfmoeAttention(config, layer_idx=0)  # its window comes from the mask, which is only causal here
    x, expected = causal_decoder(theirs, AfmoeRotaryEmbedding(config), rng)
    names = {**HUGGING_FACE, "gate_proj": "gate_proj", "q_norm": "q_norm", "k_norm": "k_norm"}
    module = Part("GatedAttention", {**OURS, **norms(config.rms_norm_eps)})
    return Comparison(module, weights_of(theirs, **names), {"x": x}, expected)


@peer("GatedAttention", "keras MultiHeadAttention")
def keras_gate(rng: np.random.Generator) -> Comparison:
    import keras

    theirs = keras.layers.MultiHeadAttention(num_heads=3, key_dim=4, use_gate=True, dtype="float64")
    x = rng.standard_normal((2, 5, 12))
    theirs.build(x.shape, x.shape)
    for variable in theirs.variables:
        variable.assign(0.5 * rng.standard_normal(variable.shape))
    x_theirs = keras.ops.convert_to_tensor(x)
    output, attention = theirs(x_theirs, x_theirs, use_causal_mask=True, return_attention_scores=True)
    names = {
        "query": "q_proj",
        "key": "k_proj",
        "value": "v_proj",
        "gate": "gate_proj",
        "attention_output": "out_proj",
    }
    weights = {}
    for variable in theirs.variables:
        _, layer, kind = variable.path.rsplit("/", 2)
        array = keras.ops.convert_to_numpy(variable)
        if kind == "bias":
            weights[f"{names[layer]}.bias"] = array.reshape(-1)
        else:  # (embed, heads, head_dim); (heads, head_dim, embed) for the output projection
            columns = 12 if layer == "attention_output" else -1
            weights[f"{names[layer]}.weight"] = np.ascontiguousarray(array.reshape(12, columns).T)
    module = Part("GatedAttention", {"embed_dim": 12, "num_heads": 3, "is_causal": True})
    expected = {
        name: keras.ops.convert_to_numpy(y) for name, y in (("output", output), ("weights", attention))
    }
    return Comparison(module, weights, {"x": x}, expected)


@peer("HeadwiseGatedAttention", "x-transformers Attention(gate_values_headwise)")
def x_transformers_gate(rng: np.random.Generator) -> Comparison:
    theirs, weights, x, expected = x_transformers_attention(rng, gate_values=True, gate_values_headwise=True)
    module = Part(
        "HeadwiseGatedAttention", {"embed_dim": 12, "num_heads": 3, "is_causal": True, "bias": False}
    )
    return Comparison(module, {**weights, **weights_of(theirs, gate_proj="to_v_gate")}, {"x": x}, expected)


@peer("DifferentialAttention", "transformers DiffLlamaAttention")
def diff_llama(rng: np.random.Generator) -> Comparison:
    config = eager(
        DiffLlamaConfig(hidden_size=24, num_attention_heads=6, num_key_value_heads=6, rms_norm_eps=1e-5)
    )
    theirs = DiffLlamaAttention(config, layer_idx=3)
    x, expected = causal_decoder(theirs, DiffLlamaRotaryEmbedding(config), rng)
    # It subtracts head h from head h − 3, the mirrors subtract head 2 h + 1 from head 2 h; the two halves of a value
    # are 3 heads apart.
    beside = np.arange(6).reshape(2, 3).T.reshape(-1)  # 0 3 1 4 2 5
    weights = weights_of(theirs, **HUGGING_FACE, **{name: name for name in LAMBDAS})
    for name in ("q_proj.weight", "k_proj.weight", "v_proj.weight"):
        weights[name] = weights[name].reshape(6, 4, 24)[beside].reshape(24, 24)
    weights["head_norm.weight"] = np.ones(8, np.float32)  # its norm has no weight
    both = expected["weights"]  # weights of all six heads instead of the differences
    with torch.no_grad():
        q1, k1, q2, k2 = (getattr(theirs, name) for name in LAMBDAS)
        factor = float(torch.exp(q1 @ k1) - torch.exp(q2 @ k2)) + theirs.lambda_init
    expected["weights"] = both[:, :3] - factor * both[:, 3:]
    module = Part(
        "DifferentialAttention",
        {
            "embed_dim": 24,
            "num_heads": 3,
            "lambda_init": theirs.lambda_init,
            "is_causal": True,
            "bias": False,
            "position": Part("RotaryEmbedding", {"head_dim": 4}),
        },
    )
    return Comparison(module, weights, {"x": x}, expected)


@peer("ForgettingAttention", "flash-linear-attention naive_forgetting_attn")
def naive_forgetting_attn(rng: np.random.Generator) -> Comparison:
    weights = load_file(FIXTURES / "forgetting.safetensors")  # from `fixtures/make_gates.py`
    x, output = weights.pop("x"), weights.pop("output")
    module = Part("ForgettingAttention", {"embed_dim": 12, "num_heads": 3})
    return Comparison(module, weights, {"x": x}, {"output": output})


@peer("ForgettingAttention", "x-transformers DataDependentAlibi")
def data_dependent_alibi(rng: np.random.Generator) -> Comparison:
    theirs, weights, x, expected = x_transformers_attention(rng, data_dependent_alibi=True)
    gates = weights_of(theirs, forget_proj="data_dependent_alibi.to_forget_gates.0")
    module = Part("ForgettingAttention", {"embed_dim": 12, "num_heads": 3, "bias": False})
    return Comparison(module, {**weights, **gates}, {"x": x}, expected)
