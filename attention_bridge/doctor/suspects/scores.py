"""What goes wrong between projections and softmax: axes of heads, scale, softcap and rotary embeddings."""

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
    """Reshape to heads, or from heads, without moving their axis."""
    if port.setting.num_heads > 1:
        yield replace(port, split="raw" if split else port.split, merge="raw" if merge else port.merge)


def unscaled(port: Port) -> Iterator[Port]:
    """A factor of 1."""
    if port.scale != 1:
        yield port.set(scale=1.0)


def scaled_twice(port: Port) -> Iterator[Port]:
    """The factor squared."""
    if port.scale != 1:
        yield port.set(scale=port.scale**2)


def scaled_by_embedding(port: Port) -> Iterator[Port]:
    """1 / sqrt(embed_dim)."""
    yield port.set(scale=1 / math.sqrt(port.x.shape[-1]))


def scaled_by_head(port: Port) -> Iterator[Port]:
    """1 / sqrt(head_dim), where the setting says something else."""
    if port.setting.scale is not None:
        yield port.set(scale=None)


def uncapped(port: Port) -> Iterator[Port]:
    """Without softcap."""
    if port.setting.softcap is not None:
        yield port.set(softcap=None)


def other_pairs(port: Port) -> Iterator[Port]:
    """The other pairing of features."""
    if port.setting.rope != "none":
        yield port.set(rope="interleaved" if port.setting.rope == "half" else "half")


def permuted_weights(port: Port) -> Iterator[Port]:
    """The rows of queries and keys stand as the other pairing wants them, in either direction."""
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
    """Only these of queries and keys are turned."""
    if port.setting.rope != "none":
        yield replace(port, roped=roped)


def turned_back(port: Port) -> Iterator[Port]:
    """Turned by the negative angle."""
    if port.setting.rope != "none":
        yield replace(port, rope_sign=-port.rope_sign)


def other_base(port: Port, *, base: float) -> Iterator[Port]:
    """Turned by the angles of another base."""
    if port.setting.rope != "none" and port.setting.rope_base != base:
        yield port.set(rope_base=base)


SCORES: tuple[Suspect, ...] = (
    Suspect(
        "reshaped to heads, not transposed",
        "reshapes (length, heads, head_dim) to (heads, length, head_dim) where it should exchange axes",
        "reshape to (batch, length, heads, head_dim), then exchange the two axes in the middle",
        partial(reshaped, split=True, merge=False),
    ),
    Suspect(
        "reshaped from heads, not transposed",
        "reshapes (heads, length, head_dim) to (length, features) where it should exchange axes first",
        "exchange the axes of heads and length, then reshape",
        partial(reshaped, split=False, merge=True),
    ),
    Suspect(
        "reshaped to and from heads, not transposed",
        "reshapes to heads and back where it should exchange axes",
        "exchange the axes of heads and length on both ways",
        partial(reshaped, split=True, merge=True),
    ),
    Suspect(
        "scale missing",
        "does not scale the scores",
        "multiply the scores by the scale, 1 / sqrt(head_dim) as a rule",
        unscaled,
    ),
    Suspect("scale twice", "scales the scores twice", "scale queries or scores, not both", scaled_twice),
    Suspect(
        "scale of embed_dim",
        "scales the scores by 1 / sqrt(embed_dim)",
        "take the size of a head, not of all, for the scale",
        scaled_by_embedding,
    ),
    Suspect(
        "scale of head_dim",
        "scales the scores by 1 / sqrt(head_dim)",
        "give the port the scale of the reference (T5, for one, has none)",
        scaled_by_head,
    ),
    Suspect("softcap missing", "does not cap the scores", "apply c tanh(scores / c)", uncapped),
    Suspect(
        "RoPE in other pairs",
        "turns other pairs of features: half-split (i, i + d/2) and interleaved (2i, 2i + 1) are exchanged",
        "take the other pairing, or permute the rows of q_proj and k_proj",
        other_pairs,
    ),
    Suspect(
        "RoPE weights permuted",
        "has the rows of q_proj and k_proj permuted, from one pairing to the other, though its arithmetic is not",
        "leave the rows of q_proj and k_proj in their order",
        permuted_weights,
    ),
    Suspect(
        "RoPE missing",
        "does not turn queries and keys",
        "turn queries and keys",
        partial(not_turned, roped=""),
    ),
    Suspect(
        "RoPE of queries only", "does not turn keys", "turn keys as well", partial(not_turned, roped="q")
    ),
    Suspect(
        "RoPE of keys only", "does not turn queries", "turn queries as well", partial(not_turned, roped="k")
    ),
    Suspect("RoPE backwards", "turns by the negative angle", "exchange the signs of the sines", turned_back),
    *(
        Suspect(
            f"RoPE base {base:.0f}",
            f"turns by the angles of base {base:.0f}",
            "give the port the base of the reference",
            partial(other_base, base=base),
        )
        for base in BASES
    ),
)
