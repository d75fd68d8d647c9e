"""Peers of attention without a softmax."""

from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import performer_pytorch.performer_pytorch as performer
import torch
from safetensors.numpy import load_file

from attention_bridge.catalogue import Part
from parity_tests.peers import Comparison, numpy, peer

FIXTURE = Path(__file__).parents[1] / "fixtures" / "linear.safetensors"
EMBED, HEADS, HEAD_DIM = 12, 3, 4


def fixture(name: str, **arguments: Any) -> Comparison:
    """One result of flash-linear-attention from the file that `fixtures/make_linear.py` writes, in float32."""
    of = {
        key.removeprefix(f"{name}/"): x for key, x in load_file(FIXTURE).items() if key.startswith(f"{name}/")
    }
    expected = {key.removeprefix("expected."): of.pop(key) for key in list(of) if key.startswith("expected.")}
    module = Part(name, {"embed_dim": EMBED, "num_heads": HEADS, "chunk_size": 4, **arguments})
    return Comparison(module, of, {"x": of.pop("x")}, expected)


@peer("LinearAttention", "flash-linear-attention naive_recurrent_linear_attn")
def linear_attention(rng: np.random.Generator) -> Comparison:
    return fixture("LinearAttention", bias=False, eps=1e-10)


@peer("MultiScaleRetention", "flash-linear-attention MultiScaleRetention")
def retention(rng: np.random.Generator) -> Comparison:
    # Half-split pairs with the usual rotary frequencies; the paper has interleaved pairs with other frequencies.
    frequencies = tuple(10000.0 ** (-i / HEAD_DIM) for i in range(0, HEAD_DIM, 2))
    return fixture("MultiScaleRetention", frequencies=frequencies, interleaved=False, eps=1e-5)


@peer("GatedLinearAttention", "flash-linear-attention GatedLinearAttention")
def gated_linear_attention(rng: np.random.Generator) -> Comparison:
    return fixture("GatedLinearAttention", gate_rank=5)


def fast_attention(rng: np.random.Generator, *, is_causal: bool) -> Comparison:
    theirs = performer.FastAttention(HEAD_DIM, nb_features=20, causal=is_causal).double()
    theirs.projection_matrix.copy_(torch.from_numpy(rng.standard_normal((20, HEAD_DIM))))
    weights = {
        f"{name}_proj.weight": 0.4 * rng.standard_normal((EMBED, EMBED)) for name in ("q", "k", "v", "out")
    }
    x = rng.standard_normal((2, 9, EMBED))
    heads = (
        torch.from_numpy(x @ weights[f"{name}_proj.weight"].T)
        .unflatten(-1, (HEADS, HEAD_DIM))
        .transpose(1, 2)
        for name in "qkv"
    )
    # eps = 0: its eps on features and denominators does not cancel (see `performer.py`).
    with (
        patch.object(performer, "softmax_kernel", partial(performer.softmax_kernel, eps=0.0)),
        patch.object(
            theirs,
            "causal_linear_fn",
            partial(performer.causal_linear_attention_noncuda, eps=0.0),
            create=True,
        ),
    ):
        read = numpy(theirs(*heads).transpose(1, 2).flatten(-2))
    arguments = {"embed_dim": EMBED, "num_heads": HEADS, "num_features": 20, "chunk_size": 4, "bias": False}
    module = Part("PerformerAttention", {**arguments, "is_causal": is_causal})
    weights["features"] = numpy(theirs.projection_matrix)
    return Comparison(module, weights, {"x": x}, {"output": read @ weights["out_proj.weight"].T})


@peer("PerformerAttention", "performer-pytorch FastAttention")
def causal_performer(rng: np.random.Generator) -> Comparison:
    return fast_attention(rng, is_causal=True)


@peer("PerformerAttention-bidirectional", "performer-pytorch FastAttention")
def bidirectional_performer(rng: np.random.Generator) -> Comparison:
    return fast_attention(rng, is_causal=False)
