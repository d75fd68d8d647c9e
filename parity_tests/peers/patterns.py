"""Peers of attention patterns: windows, chunks, global tokens, sinks."""

import os
from typing import Any

import numpy as np
import torch
import x_transformers
from transformers import BigBirdConfig, GptOssConfig, Llama4TextConfig, LongformerConfig, MistralConfig
from transformers.masking_utils import create_chunked_causal_mask, create_sliding_window_causal_mask
from transformers.models.big_bird.modeling_big_bird import BigBirdBlockSparseAttention, BigBirdModel
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssAttention
from transformers.models.llama4.modeling_llama4 import Llama4TextAttention, Llama4TextRotaryEmbedding
from transformers.models.longformer.modeling_longformer import LongformerSelfAttention
from transformers.models.mistral.modeling_mistral import MistralAttention, MistralRotaryEmbedding

from attention_bridge.catalogue import Part
from parity_tests.peers import Comparison, numpy, peer, randomise, weights_of

os.environ.setdefault("KERAS_BACKEND", "torch")

WINDOW = 3
LLAMA_NAMES = {f"{name}_proj": f"{name}_proj" for name in "qkv"} | {"out_proj": "o_proj"}
X_NAMES = {f"{name}_proj": f"to_{name}" for name in "qkv"} | {"out_proj": "to_out"}


def without_out_proj(weights: dict[str, np.ndarray], dim: int) -> dict[str, np.ndarray]:
    """Weights for a peer without an output projection: adds the identity as output projection."""
    dtype = next(iter(weights.values())).dtype
    return {**weights, "out_proj.weight": np.eye(dim, dtype=dtype), "out_proj.bias": np.zeros(dim, dtype)}


def mask_of(create: Any, config: Any, x: torch.Tensor) -> torch.Tensor:
    """The additive mask that transformers makes for a sequence: 0 for visible keys, else the lowest number."""
    positions = torch.arange(x.shape[1])[None]
    return create(
        config=config, inputs_embeds=x, attention_mask=None, past_key_values=None, position_ids=positions
    )


@peer("SlidingWindowAttention", "transformers MistralAttention")
def mistral(rng: np.random.Generator) -> Comparison:
    config = MistralConfig(
        hidden_size=24, num_attention_heads=6, num_key_value_heads=2, head_dim=8, sliding_window=WINDOW
    )
    config._attn_implementation = "eager"
    theirs = MistralAttention(config, layer_idx=0).eval()  # its softmax is always float32
    randomise(theirs, rng)
    x = rng.standard_normal((2, 7, 24)).astype(np.float32)
    turns = MistralRotaryEmbedding(config)(torch.zeros(1), torch.arange(7)[None])
    mask = mask_of(create_sliding_window_causal_mask, config, torch.from_numpy(x))
    output, weights = theirs(torch.from_numpy(x), turns, mask)
    module = Part(
        "SlidingWindowAttention",
        {
            "embed_dim": 24,
            "num_heads": 6,
            "num_kv_heads": 2,
            "head_dim": 8,
            "window": WINDOW,
            "bias": False,
            "position": Part("RotaryEmbedding", {"head_dim": 8}),
        },
    )
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, weights_of(theirs, **LLAMA_NAMES), {"x": x}, expected)


@peer("SlidingWindowAttention", "keras MultiHeadAttention")
def keras_multi_head(rng: np.random.Generator) -> Comparison:
    import keras

    theirs = keras.layers.MultiHeadAttention(
        num_heads=3, key_dim=4, sliding_window=WINDOW, bias_initializer="normal"
    )
    x = rng.standard_normal((2, 7, 12)).astype(np.float32)
    x_theirs = keras.ops.convert_to_tensor(x)
    output, weights = theirs(x_theirs, x_theirs, use_causal_mask=True, return_attention_scores=True)
    found = {}
    for variable in theirs.variables:
        _, layer, kind = variable.path.rsplit("/", 2)
        array = keras.ops.convert_to_numpy(variable)
        if kind == "bias":
            array = array.reshape(-1)
        else:  # (embed, heads, head_dim); (heads, head_dim, embed) for the output projection
            array = (array.reshape(12, -1) if layer != "attention_output" else array.reshape(-1, 12)).T
        name = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "attention_output": "out_proj"}[layer]
        found[f"{name}.{'bias' if kind == 'bias' else 'weight'}"] = np.ascontiguousarray(array)
    module = Part("SlidingWindowAttention", {"embed_dim": 12, "num_heads": 3, "window": WINDOW})
    expected = {name: keras.ops.convert_to_numpy(y) for name, y in (("output", output), ("weights", weights))}
    return Comparison(module, found, {"x": x}, expected)


@peer("SlidingWindowAttention", "x-transformers Attention")
def x_transformers_window(rng: np.random.Generator) -> Comparison:
    theirs = x_transformers.Attention(
        dim=12, heads=3, dim_head=4, causal=True, max_attend_past=WINDOW - 1
    )  # its softmax is float32
    randomise(theirs, rng)
    x = rng.standard_normal((2, 7, 12)).astype(np.float32)
    output, internals = theirs(torch.from_numpy(x), return_intermediates=True)
    module = Part(
        "SlidingWindowAttention", {"embed_dim": 12, "num_heads": 3, "window": WINDOW, "bias": False}
    )
    expected = {"output": numpy(output), "weights": numpy(internals.post_softmax_attn)}
    return Comparison(module, weights_of(theirs, **X_NAMES), {"x": x}, expected)


@peer("ChunkedAttention", "transformers Llama4TextAttention")
def llama_4(rng: np.random.Generator) -> Comparison:
    config = Llama4TextConfig(
        hidden_size=24,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=1,
        attention_chunk_size=3,
        use_qk_norm=False,
        no_rope_layers=[1],  # 1 means with rotary embeddings
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    )
    config._attn_implementation = "eager"
    theirs = Llama4TextAttention(config, layer_idx=0).eval()  # its rotary embeddings are always float32
    randomise(theirs, rng)
    x = rng.standard_normal((2, 7, 24)).astype(np.float32)
    turns = Llama4TextRotaryEmbedding(config)(torch.zeros(1), torch.arange(7)[None])
    mask = mask_of(create_chunked_causal_mask, config, torch.from_numpy(x))
    output, weights = theirs(torch.from_numpy(x), turns, mask)
    module = Part(
        "ChunkedAttention",
        {
            "embed_dim": 24,
            "num_heads": 6,
            "num_kv_heads": 2,
            "head_dim": 8,
            "chunk_size": 3,
            "bias": False,
            "position": Part("RotaryEmbedding", {"head_dim": 8, "interleaved": True}),
        },
    )
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, weights_of(theirs, **LLAMA_NAMES), {"x": x}, expected)


@peer("LongformerAttention", "transformers LongformerSelfAttention")
def longformer(rng: np.random.Generator) -> Comparison:
    side, length = 2, 12  # transformers needs a length that is a multiple of 2 * side
    config = LongformerConfig(hidden_size=12, num_attention_heads=3, attention_window=[2 * side])
    theirs = LongformerSelfAttention(config, layer_id=0).eval()  # its softmax is always float32
    randomise(theirs, rng)
    x = rng.standard_normal((2, length, 12)).astype(np.float32)
    is_global = np.zeros((2, length), bool)
    is_global[0, 0] = is_global[1, [3, 9]] = True
    output, local, of_global = theirs(
        torch.from_numpy(x),
        attention_mask=10000.0 * torch.from_numpy(is_global),
        is_index_masked=torch.zeros(2, length, dtype=torch.bool),
        is_index_global_attn=torch.from_numpy(is_global),
        is_global_attn=True,
        output_attentions=True,
    )
    names = {f"{name[0]}_proj": name for name in ("query", "key", "value")}
    names |= {f"global_{proj}": f"{name}_global" for proj, name in names.items()}
    found = without_out_proj(weights_of(theirs, **names), 12)
    expected = {"output": numpy(output), "weights": longformer_weights(local, of_global, is_global, side)}
    module = Part("LongformerAttention", {"embed_dim": 12, "num_heads": 3, "one_sided_window": side})
    return Comparison(module, found, {"x": x, "global_tokens": is_global}, expected)


def longformer_weights(
    local: torch.Tensor, of_global: torch.Tensor, is_global: np.ndarray, side: int
) -> np.ndarray:
    """Longformer's weights as a matrix over all keys.

    transformers returns one column per global token, then one per window position.
    """
    batch, length, heads, _ = local.shape
    weights = np.zeros((batch, heads, length, length), np.float32)
    columns = of_global.shape[2]
    for b in range(batch):
        globals_here = np.flatnonzero(is_global[b])
        for i in range(length):
            for k, j in enumerate(globals_here):
                weights[b, :, i, j] += numpy(local)[b, i, :, k]
            for k, j in enumerate(range(i - side, i + side + 1)):
                if 0 <= j < length:
                    weights[b, :, i, j] += numpy(local)[b, i, :, columns + k]
        for k, i in enumerate(globals_here):
            weights[b, :, i] = numpy(of_global)[b, :, k]
    return weights


@peer("BigBirdAttention", "transformers BigBirdBlockSparseAttention")
def big_bird(rng: np.random.Generator) -> Comparison:
    heads, block, length = 3, 2, 22
    config = BigBirdConfig(
        hidden_size=12, num_attention_heads=heads, block_size=block, num_random_blocks=2, use_bias=True
    )
    # Its blocks are random only in training mode; otherwise each is the first block, which then counts several times.
    theirs = BigBirdBlockSparseAttention(config, seed=5).double().train()
    randomise(theirs, rng)
    x = rng.standard_normal((2, length, 12))
    ones = torch.ones(2, length, dtype=torch.float64)
    blocked, band, from_mask, to_mask = BigBirdModel.create_masks_for_block_sparse_attn(ones, block)
    drawn: list[np.ndarray] = []  # its random blocks, one array per head
    draw = theirs._bigbird_block_rand_mask_with_head
    theirs._bigbird_block_rand_mask_with_head = lambda **plan: drawn.extend(draw(**plan)) or drawn
    output, weights = theirs(torch.from_numpy(x), band, from_mask, to_mask, blocked, blocked)
    random_blocks = np.pad(np.stack(drawn), ((0, 0), (1, 1), (0, 0)), constant_values=-1)
    names = {f"{name[0]}_proj": name for name in ("query", "key", "value")}
    found = without_out_proj(weights_of(theirs, **names), 12)
    module = Part("BigBirdAttention", {"embed_dim": 12, "num_heads": heads, "block_size": block})
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, found, {"x": x, "random_blocks": random_blocks}, expected)


@peer("LearnedSinkAttention", "transformers GptOssAttention")
def gpt_oss(rng: np.random.Generator) -> Comparison:
    config = GptOssConfig(
        hidden_size=24,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=8,
        num_hidden_layers=1,
        layer_types=["sliding_attention"],
        sliding_window=WINDOW,
    )
    config._attn_implementation = "eager"
    theirs = GptOssAttention(config, layer_idx=0).double().eval()
    randomise(theirs, rng)
    x = rng.standard_normal((2, 7, 24))
    unturned = (torch.ones(1, 7, 4, dtype=torch.float64), torch.zeros(1, 7, 4, dtype=torch.float64))
    mask = mask_of(create_sliding_window_causal_mask, config, torch.from_numpy(x))
    output, weights = theirs(torch.from_numpy(x), unturned, mask)
    module = Part(
        "LearnedSinkAttention",
        {
            "embed_dim": 24,
            "num_heads": 6,
            "num_kv_heads": 2,
            "head_dim": 8,
            "is_causal": True,
            "window": WINDOW,
        },
    )
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, weights_of(theirs, **LLAMA_NAMES, sinks="sinks"), {"x": x}, expected)


@peer("LearnedSinkAttention", "x-transformers Attention")
def x_transformers_sink(rng: np.random.Generator) -> Comparison:
    theirs = x_transformers.Attention(
        dim=12, heads=3, dim_head=4, head_learned_sink=True
    )  # its softmax is always float32
    randomise(theirs, rng)
    x = rng.standard_normal((2, 7, 12)).astype(np.float32)
    output, _ = theirs(torch.from_numpy(x), return_intermediates=True)
    module = Part("LearnedSinkAttention", {"embed_dim": 12, "num_heads": 3, "bias": False})
    found = weights_of(theirs, **X_NAMES, sinks="attend.head_attn_sink")
    return Comparison(module, found, {"x": x}, {"output": numpy(output)})


@peer("PersistentMemoryAttention", "torch.nn.MultiheadAttention, add_bias_kv")
def torch_bias_kv(rng: np.random.Generator) -> Comparison:
    theirs = torch.nn.MultiheadAttention(12, 3, add_bias_kv=True, batch_first=True).double().eval()
    randomise(theirs, rng)
    x = rng.standard_normal((2, 7, 12))
    hidden = np.triu(np.ones((7, 7), bool), 1)
    query = torch.from_numpy(x)
    output, weights = theirs(
        query, query, query, attn_mask=torch.from_numpy(hidden), average_attn_weights=False
    )
    found = weights_of(theirs, out_proj="out_proj")
    for kind in ("weight", "bias"):
        parts = np.split(numpy(getattr(theirs, f"in_proj_{kind}")), 3)
        found |= {f"{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)}
    found |= {"memory_key": numpy(theirs.bias_k)[0], "memory_value": numpy(theirs.bias_v)[0]}
    module = Part("PersistentMemoryAttention", {"embed_dim": 12, "num_heads": 3, "is_causal": True})
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, found, {"x": x}, expected)


@peer("PersistentMemoryAttention", "x-transformers Attention")
def x_transformers_memories(rng: np.random.Generator) -> Comparison:
    theirs = x_transformers.Attention(
        dim=12, heads=3, dim_head=4, num_mem_kv=5, causal=True
    )  # its softmax is always float32
    randomise(theirs, rng)
    x = rng.standard_normal((2, 7, 12)).astype(np.float32)
    output, internals = theirs(torch.from_numpy(x), return_intermediates=True)
    found = weights_of(theirs, **X_NAMES)
    for name, memories in (("key", theirs.mem_k), ("value", theirs.mem_v)):  # heads memories head_dim
        found[f"memory_{name}"] = numpy(memories).transpose(1, 0, 2).reshape(5, 12)
    weights = np.roll(numpy(internals.post_softmax_attn), -5, axis=-1)  # its memories come first
    module = Part(
        "PersistentMemoryAttention",
        {"embed_dim": 12, "num_heads": 3, "num_memories": 5, "is_causal": True, "bias": False},
    )
    return Comparison(module, found, {"x": x}, {"output": numpy(output), "weights": weights})
