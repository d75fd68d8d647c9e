"""Peers of the positional encodings."""

from typing import Any

import numpy as np
import torch
from transformers import (
    BertConfig,
    BloomConfig,
    DebertaV2Config,
    GPTJConfig,
    LlamaConfig,
    MptConfig,
    PhiConfig,
    T5Config,
    Wav2Vec2BertConfig,
    XLNetConfig,
)
from transformers.models.bert.modeling_bert import BertEmbeddings
from transformers.models.bloom.modeling_bloom import BloomAttention, build_alibi_tensor
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention
from transformers.models.distilbert.modeling_distilbert import create_sinusoidal_embeddings
from transformers.models.gptj.modeling_gptj import GPTJAttention
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding
from transformers.models.mpt.modeling_mpt import MptAttention, build_mpt_alibi_tensor
from transformers.models.phi.modeling_phi import PhiAttention, PhiRotaryEmbedding
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig, Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VLAttention,
    Qwen2VLRotaryEmbedding,
    Qwen2VLVisionRotaryEmbedding,
    VisionAttention,
)
from transformers.models.t5.modeling_t5 import T5Attention
from transformers.models.wav2vec2_bert.modeling_wav2vec2_bert import Wav2Vec2BertSelfAttention
from transformers.models.xlnet.modeling_xlnet import XLNetModel, XLNetRelativeAttention

from attention_bridge.catalogue import Part
from parity_tests.peers import Comparison, numpy, peer, randomise, weights_of

CAUSAL = torch.full((5, 5), -torch.inf).triu(1)[None, None]
SPREAD = np.array([0, 3, 9, 14, 19])  # positions in a sequence of 20, beyond the original length of 8
PROJECTIONS = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj"}


def sequence(rng: np.random.Generator, embed_dim: int, dtype: str = "float32") -> np.ndarray:
    return rng.standard_normal((2, 5, embed_dim)).astype(dtype)


def unpacked(packed: dict[str, np.ndarray], pattern: int | None) -> dict[str, np.ndarray]:
    """Split a packed QKV projection into q, k and v.

    Args:
        packed: weight and bias of the packed projection.
        pattern: number of heads if the rows are ordered by head; None if all of q come first, then k, then v.
    """
    split = {}
    for name, rows in packed.items():
        three = (
            rows.reshape(3, -1, *rows.shape[1:])
            if pattern is None
            else rows.reshape(pattern, 3, -1, *rows.shape[1:]).swapaxes(0, 1)
        )
        for letter, part in zip("qkv", three, strict=True):
            split[f"{letter}_proj{name.removeprefix('qkv')}"] = part.reshape(-1, *rows.shape[1:])
    return split


@peer("SinusoidalEmbedding", "transformers DistilBERT create_sinusoidal_embeddings")
def distilbert(rng: np.random.Generator) -> Comparison:
    table = torch.empty(5, 12)
    create_sinusoidal_embeddings(5, 12, table)
    x = sequence(rng, 12)
    return Comparison(
        Part("SinusoidalEmbedding", {"embed_dim": 12}), {}, {"x": x}, {"output": x + numpy(table)}
    )


@peer("LearnedEmbedding", "transformers BertEmbeddings")
def bert_embeddings(rng: np.random.Generator) -> Comparison:
    theirs = BertEmbeddings(BertConfig(vocab_size=9, hidden_size=12, max_position_embeddings=11)).eval()
    randomise(theirs, rng)
    torch.nn.init.zeros_(theirs.token_type_embeddings.weight)
    theirs.LayerNorm = torch.nn.Identity()
    x, positions = sequence(rng, 12), np.array([[0, 1, 2, 5, 10], [3, 1, 4, 1, 6]])
    output = theirs(inputs_embeds=torch.from_numpy(x), position_ids=torch.from_numpy(positions))
    weights = weights_of(theirs, position_embedding="position_embeddings")
    module = Part("LearnedEmbedding", {"max_len": 11, "embed_dim": 12})
    return Comparison(module, weights, {"x": x, "positions": positions}, {"output": numpy(output)})


@peer("RotaryEmbedding-interleaved", "transformers GPTJAttention")
def gptj(rng: np.random.Generator) -> Comparison:
    theirs = GPTJAttention(GPTJConfig(n_embd=24, n_head=3, rotary_dim=8, n_positions=20), layer_idx=0).eval()
    x = sequence(rng, 24)  # its scores are always float32
    output, weights = theirs(
        torch.from_numpy(x), attention_mask=CAUSAL, position_ids=torch.arange(5)[None].expand(2, -1)
    )
    position = Part("RotaryEmbedding", {"head_dim": 8, "interleaved": True})
    module = Part(
        "CausalSelfAttention", {"embed_dim": 24, "num_heads": 3, "bias": False, "position": position}
    )
    given = weights_of(theirs, **PROJECTIONS, out_proj="out_proj")
    return Comparison(module, given, {"x": x}, {"output": numpy(output), "weights": numpy(weights)})


@peer("RotaryEmbedding-partial", "transformers PhiAttention")
def phi(rng: np.random.Generator) -> Comparison:
    config = PhiConfig(
        hidden_size=24,
        num_attention_heads=3,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    )
    config._attn_implementation = "eager"
    theirs = PhiAttention(config, layer_idx=0).eval()  # its softmax is always float32
    x = sequence(rng, 24)
    turns = PhiRotaryEmbedding(config)(torch.zeros(1), torch.arange(5)[None])
    output, weights = theirs(torch.from_numpy(x), turns, CAUSAL)
    position = Part("RotaryEmbedding", {"head_dim": 8, "rotary_dim": 4})
    module = Part("CausalSelfAttention", {"embed_dim": 24, "num_heads": 3, "position": position})
    given = weights_of(theirs, **PROJECTIONS, out_proj="dense")
    return Comparison(module, given, {"x": x}, {"output": numpy(output), "weights": numpy(weights)})


def llama(
    rng: np.random.Generator, parameters: dict[str, Any], position: dict[str, Any], max_len: int = 32
) -> Comparison:
    """Compare Llama's attention with rotary `parameters` and the mirrors' attention with `position`."""
    config = LlamaConfig(
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=max_len,
        rope_parameters={"rope_theta": 100.0, **parameters},
    )
    config._attn_implementation = "eager"
    theirs = LlamaAttention(config, layer_idx=0).eval()  # its softmax is always float32
    x = sequence(rng, 24)
    turns = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(SPREAD)[None])
    output, weights = theirs(torch.from_numpy(x), turns, CAUSAL)
    held = Part("RotaryEmbedding", {"head_dim": 8, **position})
    module = Part("CausalSelfAttention", {"embed_dim": 24, "num_heads": 3, "bias": False, "position": held})
    given = weights_of(theirs, **PROJECTIONS, out_proj="o_proj")
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, given, {"x": x, "positions": SPREAD}, expected)


@peer("RotaryEmbedding-linear", "transformers LlamaAttention, linear")
def llama_linear(rng: np.random.Generator) -> Comparison:
    frequencies = Part("linear_frequencies", {"rotary_dim": 8, "factor": 4.0, "base": 100.0})
    return llama(rng, {"rope_type": "linear", "factor": 4.0}, {"frequencies": frequencies})


@peer("RotaryEmbedding-dynamic-ntk", "transformers LlamaAttention, dynamic-ntk")
def llama_dynamic(rng: np.random.Generator) -> Comparison:
    sizes = {"rotary_dim": 8, "length": 20, "factor": 4.0, "original_length": 8, "base": 100.0}
    frequencies = Part("dynamic_ntk_frequencies", sizes)
    return llama(rng, {"rope_type": "dynamic", "factor": 4.0}, {"frequencies": frequencies}, max_len=8)


@peer("RotaryEmbedding-yarn", "transformers LlamaAttention, yarn")
def llama_yarn(rng: np.random.Generator) -> Comparison:
    turns = {"beta_fast": 0.9, "beta_slow": 0.05}
    sizes = {"rotary_dim": 8, "factor": 4.0, "original_length": 8, "base": 100.0}
    theirs = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8, **turns}
    return llama(
        rng,
        theirs,
        {
            "frequencies": Part("yarn_frequencies", {**sizes, **turns}),
            "amplitude": Part("yarn_amplitude", {"factor": 4.0}),
        },
    )


@peer("RotaryEmbedding-llama3", "transformers LlamaAttention, llama3")
def llama_llama3(rng: np.random.Generator) -> Comparison:
    turns = {"low_freq_factor": 0.08, "high_freq_factor": 0.8}
    sizes = {"rotary_dim": 8, "factor": 4.0, "original_length": 8, "base": 100.0}
    theirs = {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 8, **turns}
    return llama(rng, theirs, {"frequencies": Part("llama3_frequencies", {**sizes, **turns})})


@peer("RotaryEmbedding-longrope", "transformers LlamaAttention, longrope")
def llama_longrope(rng: np.random.Generator) -> Comparison:
    short, long = [1.0, 1.5, 2.0, 2.5], [1.25, 2.5, 4.0, 8.0]
    sizes = {"rotary_dim": 8, "length": 20, "original_length": 8, "base": 100.0}
    theirs = {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 8}
    return llama(
        rng,
        {**theirs, "short_factor": short, "long_factor": long},
        {
            "frequencies": Part(
                "longrope_frequencies", {**sizes, "short_factors": short, "long_factors": long}
            ),
            "amplitude": Part("longrope_amplitude", {"factor": 4.0, "original_length": 8}),
        },
    )


@peer("RotaryEmbedding-proportional", "transformers LlamaAttention, proportional")
def llama_proportional(rng: np.random.Generator) -> Comparison:
    sizes = {"head_dim": 8, "proportion": 0.6, "factor": 2.0, "base": 100.0}
    theirs = {"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.6}
    return llama(rng, theirs, {"frequencies": Part("proportional_frequencies", sizes)})


@peer("MultiAxisRotaryEmbedding", "transformers Qwen2VLAttention")
def qwen2_vl(rng: np.random.Generator) -> Comparison:
    config = Qwen2VLTextConfig(
        hidden_size=24,
        num_attention_heads=3,
        num_key_value_heads=1,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 2, 1]},
    )
    config._attn_implementation = "eager"
    theirs = Qwen2VLAttention(config, layer_idx=0).eval()  # its softmax is always float32
    x, positions = sequence(rng, 24), rng.integers(0, 9, (2, 5, 3))
    turns = Qwen2VLRotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(positions).permute(2, 0, 1))
    output, weights = theirs(torch.from_numpy(x), CAUSAL, position_embeddings=turns)
    position = Part("MultiAxisRotaryEmbedding", {"head_dim": 8, "sections": (1, 2, 1)})
    size = {"embed_dim": 24, "num_heads": 3, "num_kv_heads": 1}
    module = Part("GroupedQueryAttention", {**size, "is_causal": True, "position": position})
    given = weights_of(theirs, **PROJECTIONS, out_proj="o_proj")
    given["out_proj.bias"] = np.zeros(24, np.float32)
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, given, {"x": x, "positions": positions}, expected)


@peer("AxialRotaryEmbedding", "transformers Qwen2VL VisionAttention")
def qwen2_vl_vision(rng: np.random.Generator) -> Comparison:
    config = Qwen2VLVisionConfig(embed_dim=24, num_heads=3)
    config._attn_implementation = "eager"
    theirs = VisionAttention(config).eval()  # its softmax and rotary embeddings are always float32
    x, positions = sequence(rng, 24)[:1], rng.integers(0, 9, (5, 2))
    turns = Qwen2VLVisionRotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(positions))
    output = theirs(torch.from_numpy(x[0]), torch.tensor([0, 5]), position_embeddings=turns)
    position = Part("AxialRotaryEmbedding", {"head_dim": 8})
    module = Part("MultiHeadSelfAttention", {"embed_dim": 24, "num_heads": 3, "position": position})
    given = unpacked(weights_of(theirs, qkv="qkv"), None) | weights_of(theirs, out_proj="proj")
    return Comparison(module, given, {"x": x, "positions": positions}, {"output": numpy(output)[None]})


def alibi(heads: int) -> Part:
    """Causal attention with ALiBi; numbers of heads that are no power of two, such as six, have special slopes."""
    return Part(
        "CausalSelfAttention",
        {"embed_dim": 24, "num_heads": heads, "position": Part("ALiBi", {"num_heads": heads})},
    )


@peer("ALiBi", "transformers BloomAttention")
def bloom(rng: np.random.Generator) -> Comparison:
    theirs = BloomAttention(BloomConfig(hidden_size=24, n_head=6), layer_idx=0).eval()
    x = sequence(rng, 24)  # its softmax is always float32
    bias = build_alibi_tensor(torch.ones(2, 5), 6, torch.float32)
    output, weights = theirs(torch.from_numpy(x), torch.zeros(2, 5, 24), bias, CAUSAL, output_attentions=True)
    given = unpacked(weights_of(theirs, qkv="query_key_value"), 6) | weights_of(theirs, out_proj="dense")
    return Comparison(alibi(6), given, {"x": x}, {"output": numpy(output), "weights": numpy(weights)})


@peer("ALiBi", "transformers MptAttention")
def mpt(rng: np.random.Generator) -> Comparison:
    theirs = MptAttention(MptConfig(d_model=24, n_heads=6)).eval()
    x = sequence(rng, 24)  # its softmax is always float32
    output, weights = theirs(
        torch.from_numpy(x), build_mpt_alibi_tensor(6, 5), attention_mask=CAUSAL[0, 0] < 0
    )
    given = unpacked(weights_of(theirs, qkv="Wqkv"), None) | weights_of(theirs, out_proj="out_proj")
    module = Part("CausalSelfAttention", {**alibi(6).arguments, "bias": False})
    return Comparison(module, given, {"x": x}, {"output": numpy(output), "weights": numpy(weights)})


@peer("T5Bias", "transformers T5Attention")
def t5(rng: np.random.Generator) -> Comparison:
    config = T5Config(
        d_model=12,
        d_kv=5,
        num_heads=3,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=16,
    )
    config._attn_implementation = "eager"
    theirs = T5Attention(config, has_relative_attention_bias=True).double().eval()
    randomise(theirs, rng)
    x = rng.standard_normal((2, 40, 12))  # with distances beyond 16
    output, _, weights = theirs(torch.from_numpy(x))
    module = Part(
        "GroupedQueryAttention",
        {
            "embed_dim": 12,
            "num_heads": 3,
            "num_kv_heads": 3,
            "head_dim": 5,
            "scale": 1.0,
            "bias": False,
            "position": Part("T5Bias", {"num_heads": 3, "num_buckets": 8, "max_distance": 16}),
        },
    )
    names = {f"{letter}_proj": letter for letter in "qkv"} | {"out_proj": "o"}
    given = weights_of(theirs, **names, **{"position.bias_embedding": "relative_attention_bias"})
    return Comparison(module, given, {"x": x}, {"output": numpy(output), "weights": numpy(weights)})


@peer("ShawEmbedding", "transformers Wav2Vec2BertSelfAttention, relative_key")
def wav2vec2_bert(rng: np.random.Generator) -> Comparison:
    config = Wav2Vec2BertConfig(
        hidden_size=12,
        num_attention_heads=3,
        position_embeddings_type="relative_key",
        left_max_position_embeddings=2,
        right_max_position_embeddings=2,
    )
    config._attn_implementation = "eager"
    theirs = Wav2Vec2BertSelfAttention(config).double().eval()
    randomise(theirs, rng)
    x = sequence(rng, 12, "float64")
    output, weights = theirs(torch.from_numpy(x))
    position = Part("ShawEmbedding", {"head_dim": 4, "max_distance": 2})
    module = Part("MultiHeadSelfAttention", {"embed_dim": 12, "num_heads": 3, "position": position})
    names = {f"{letter}_proj": f"linear_{letter}" for letter in "qkv"} | {"out_proj": "linear_out"}
    given = weights_of(theirs, **names, **{"position.key_embedding": "distance_embedding"})
    return Comparison(module, given, {"x": x}, {"output": numpy(output), "weights": numpy(weights)})


@peer("TransformerXLEmbedding", "transformers XLNetRelativeAttention")
def xlnet(rng: np.random.Generator) -> Comparison:
    config = XLNetConfig(d_model=12, n_head=3, d_head=4, n_layer=1, d_inner=8, vocab_size=7)
    theirs = XLNetRelativeAttention(config).double().eval()
    randomise(theirs, rng)
    theirs.layer_norm = torch.nn.Identity()
    x = sequence(rng, 12, "float64")
    h = torch.from_numpy(x).swapaxes(0, 1)  # length batch embed
    # XLNet's sinusoids are always float32; here the same numbers are in float64.
    angles = torch.arange(5, -5, -1.0, dtype=torch.float64)[:, None] * 10000 ** (
        -torch.arange(0, 12, 2.0, dtype=torch.float64) / 12
    )
    r = torch.cat([angles.sin(), angles.cos()], dim=-1)[:, None].expand(-1, 2, -1)
    assert torch.allclose(r.float(), XLNetModel(config).relative_positional_encoding(5, 5, bsz=2), atol=1e-6)
    query, key, value = (torch.einsum("ibh,hnd->ibnd", h, getattr(theirs, name)) for name in "qkv")
    of_distances = torch.einsum("ibh,hnd->ibnd", r, theirs.r)
    joined, weights = theirs.rel_attn_core(query, key, value, of_distances, output_attentions=True)
    output = theirs.post_attention(h, joined, residual=False).swapaxes(0, 1)
    position = Part("TransformerXLEmbedding", {"embed_dim": 12, "num_heads": 3, "head_dim": 4})
    module = Part(
        "MultiHeadSelfAttention", {"embed_dim": 12, "num_heads": 3, "bias": False, "position": position}
    )
    given = {
        **{f"{name}_proj.weight": numpy(getattr(theirs, name)).reshape(12, 12).T for name in "qkv"},
        "out_proj.weight": numpy(theirs.o).reshape(12, 12),
        "position.distance_weight": numpy(theirs.r),
        "position.content_bias": numpy(theirs.r_w_bias),
        "position.distance_bias": numpy(theirs.r_r_bias),
    }
    expected = {"output": numpy(output), "weights": numpy(weights.permute(2, 3, 0, 1))}
    return Comparison(module, given, {"x": x}, expected)


def deberta(rng: np.random.Generator, *, share: bool) -> Comparison:
    """Compare DeBERTa's attention, with the table of relative position embeddings that its encoder owns."""
    config = DebertaV2Config(
        hidden_size=12,
        num_attention_heads=3,
        relative_attention=True,
        pos_att_type=["c2p", "p2c"],
        share_att_key=share,
        position_buckets=8,
        max_relative_positions=16,
    )
    theirs = DisentangledSelfAttention(config).eval()  # its scale is always float32
    randomise(theirs, rng)
    x = rng.standard_normal((2, 40, 12)).astype(np.float32)  # with distances beyond 16
    table = rng.standard_normal((16, 12)).astype(np.float32)
    output, weights = theirs(
        torch.from_numpy(x),
        torch.ones(2, 1, 40, 40),
        output_attentions=True,
        rel_embeddings=torch.from_numpy(table),
    )
    names = {"q_proj": "query_proj", "k_proj": "key_proj", "v_proj": "value_proj"}
    own = {} if share else {"relative_q_proj": "pos_query_proj", "relative_k_proj": "pos_key_proj"}
    given = {
        **weights_of(theirs, **names, **own),
        "relative_embedding.weight": table,
        "out_proj.weight": np.eye(12, dtype=np.float32),  # in another class in transformers
        "out_proj.bias": np.zeros(12, np.float32),
    }
    sizes = {"embed_dim": 12, "num_heads": 3, "num_buckets": 8, "max_distance": 16}
    module = Part("DisentangledSelfAttention", {**sizes, "share_projections": share})
    return Comparison(module, given, {"x": x}, {"output": numpy(output), "weights": numpy(weights)})


@peer("DisentangledSelfAttention", "transformers DebertaV2 DisentangledSelfAttention")
def deberta_v2(rng: np.random.Generator) -> Comparison:
    return deberta(rng, share=True)


@peer(
    "DisentangledSelfAttention-own-projections",
    "transformers DebertaV2 DisentangledSelfAttention, share_att_key=False",
)
def deberta_own(rng: np.random.Generator) -> Comparison:
    return deberta(rng, share=False)
