"""Mistakes between projections and softmax: head axes, scale, softcap and RoPE."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
from einops import rearrange

from attention_bridge.doctor.port import Port
from attention_bridge.doctor.suspects.suspect import Suspect

BASES = (10000.0, 500000.0, 1000000.0)


def reshaped(port: Port, *, split: bool, merge: bool) -> Iterator[Port]:
    """Plant a reshape to heads, or from heads, without the exchange of axes."""
    if port.setting.num_heads > 1:
        yield replace(port, split="raw" if split else port.split, merge="raw" if merge else port.merge)


def unscaled(port: Port) -> Iterator[Port]:
    """Plant a missing scale."""
    if port.scale != 1:
        yield port.set(scale=1.0)


def scaled_twice(port: Port) -> Iterator[Port]:
    """Plant a scale applied twice."""
    if port.scale != 1:
        yield port.set(scale=port.scale**2)


def scaled_by_embedding(port: Port) -> Iterator[Port]:
    """Plant a scale of 1 / sqrt(embed_dim)."""
    yield port.set(scale=1 / math.sqrt(port.x.shape[-1]))


def scaled_by_head(port: Port) -> Iterator[Port]:
    """Plant a scale of 1 / sqrt(head_dim) on a layer with another one."""
    if port.setting.scale is not None:
        yield port.set(scale=None)


def uncapped(port: Port) -> Iterator[Port]:
    """Plant a missing softcap."""
    if port.setting.softcap is not None:
        yield port.set(softcap=None)


def other_pairs(port: Port) -> Iterator[Port]:
    """Plant the other feature pairing of RoPE."""
    if port.setting.rope != "none":
        yield port.set(rope="interleaved" if port.setting.rope == "half" else "half")


def permuted_weights(port: Port) -> Iterator[Port]:
    """Plant q_proj and k_proj with rows permuted for the other RoPE pairing, in either direction."""
    if port.setting.rope == "none":
        return
    dim = port.setting.rope_dim or port.head_dim
    for pattern in ("h (two pair) -> h (pair two)", "h (pair two) -> h (two pair)"):
        changed = {}
        for name, heads in (("q_proj", port.setting.num_heads), ("k_proj", port.setting.kv_heads)):
            for kind in ("weight", "bias"):
                if (x := port.weights.get(f"{name}.{kind}")) is not None:
                    rows = np.arange(len(x)).reshape(heads, port.head_dim)
                    rows[:, :dim] = rearrange(rows[:, :dim], pattern, two=2)
                    options = ("rows", rows.tobytes())
                    changed[f"{name}.{kind}"] = port.keep((x,), options, lambda: x[rows.reshape(-1)])  # noqa: B023
        yield port.put(changed)


def not_turned(port: Port, *, roped: str) -> Iterator[Port]:
    """Plant RoPE applied only to `roped`: `q`, `k` or neither."""
    if port.setting.rope != "none":
        yield replace(port, roped=roped)


def turned_back(port: Port) -> Iterator[Port]:
    """Plant RoPE by the negative angle."""
    if port.setting.rope != "none":
        yield replace(port, rope_sign=-port.rope_sign)


def other_base(port: Port, *, base: float) -> Iterator[Port]:
    """Plant RoPE with another base."""
    if port.setting.rope != "none" and port.setting.rope_base != base:
        yield port.set(rope_base=base)


SCORES: tuple[Suspect, ...] = (
    Suspect(
        "reshaped to heads, not transposed",
        "reshapes (length, heads, head_dim) to (heads, length, head_dim) instead of exchanging the axes",
        "reshape to (batch, length, heads, head_dim), then exchange the two middle axes",
        partial(reshaped, split=True, merge=False),
    ),
    Suspect(
        "reshaped from heads, not transposed",
        "reshapes (heads, length, head_dim) to (length, features) without exchanging the axes first",
        "exchange the axes of heads and length, then reshape",
        partial(reshaped, split=False, merge=True),
    ),
    Suspect(
        "reshaped to and from heads, not transposed",
        "reshapes to heads and back instead of exchanging the axes",
        "exchange the axes of heads and length in both directions",
        partial(reshaped, split=True, merge=True),
    ),
    Suspect(
        "scale missing",
        "does not scale the scores",
        "multiply the scores by the scale, usually 1 / sqrt(head_dim)",
        unscaled,
    ),
    Suspect("scale twice", "scales the scores twice", "scale queries or scores, not both", scaled_twice),
    Suspect(
        "scale of embed_dim",
        "scales the scores by 1 / sqrt(embed_dim)",
        "use head_dim, not embed_dim, for the scale",
        scaled_by_embedding,
    ),
    Suspect(
        "scale of head_dim",
        "scales the scores by 1 / sqrt(head_dim)",
        "give the port the scale of the reference (T5, for example, has none)",
        scaled_by_head,
    ),
    Suspect("softcap missing", "does not cap the scores", "apply c tanh(scores / c)", uncapped),
    Suspect(
        "RoPE with the other pairing",
        "rotates other pairs of features: half-split (i, i + d/2) and interleaved (2i, 2i + 1) are exchanged",
        "use the other pairing, or permute the rows of q_proj and k_proj",
        other_pairs,
    ),
    Suspect(
        "RoPE weights permuted",
        "permutes the rows of q_proj and k_proj from one pairing to the other, but rotates the same pairs",
        "keep the rows of q_proj and k_proj in their order",
        permuted_weights,
    ),
    Suspect(
        "RoPE missing",
        "does not apply RoPE",
        "apply RoPE to queries and keys",
        partial(not_turned, roped=""),
    ),
    Suspect(
        "RoPE of queries only",
        "does not apply RoPE to keys",
        "apply RoPE to keys as well",
        partial(not_turned, roped="q"),
    ),
    Suspect(
        "RoPE of keys only",
        "does not apply RoPE to queries",
        "apply RoPE to queries as well",
        partial(not_turned, roped="k"),
    ),
    Suspect("RoPE backwards", "rotates by the negative angle", "flip the signs of the sines", turned_back),
    *(
        Suspect(
            f"RoPE base {base:.0f}",
            f"uses {base:.0f} as the base of RoPE",
            "give the port the base of the reference",
            partial(other_base, base=base),
        )
        for base in BASES
    ),
)
