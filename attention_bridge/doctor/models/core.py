"""Attention from given queries, keys and values, right or with a mistake, in numpy and float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Array = np.ndarray
HIDDEN = -1e4  # an additive mask hides a key by this number, or by a lower one
LOWEST = -1e30


@dataclass(frozen=True)
class Core:
    """The computation between the projections of an attention layer and its output projection.

    Attributes:
        heads, kv_heads: numbers of query heads and of key/value heads.
        causal: whether a query attends only to keys up to its own position.
        window: number of visible keys, including the query's own; None for no limit.
        scale: factor on the scores; None for 1/sqrt(head_dim).
        softcap: c of `c tanh(scores / c)`; None for none.
        rope: pairing of RoPE: `none`, `half` or `interleaved`.
        base: base of RoPE's wavelengths.
        turned: number of features of each head that RoPE turns; None for all.
        stretch: factor that RoPE divides positions by.
        first, first_key: position of the first query and of the first key in RoPE.
        sign: -1 for RoPE by the negative angle, else 1.
        roped: which are turned: `qk`, `q`, `k`, or `qkk` for keys that are turned twice.
        alibi: `none`, `slopes` for -slope * distance, `reversed` for slopes in reverse order, or `positive`.
        mask: `none`, `keys`, `inverted`, `queries` or `other`, another sample's mask.
        late: added to a query's position in the causal mask.
        softmax: `keys` or `queries`, the axis that the weights sum to 1 along.
        groups: `repeat` or `tile`, how key/value heads serve query heads.
        split: how queries, keys and values are cut into heads: `heads`; `raw` for a reshape without an exchange of
            axes; `inner` if head_dim is the outer axis. One letter each for q, k and v may be given, as in `q raw`.
        merge: `heads`, `raw`, or `reversed` for heads in reverse.
        swapped: whether batch and length are exchanged before.
        order: the roles that the results of the three projections play.
        offset: number of keys of the cache before the first query, for the causal mask and ALiBi.
        cached: cached keys as they are (`once`), turned by RoPE once more (`twice`), or not attended to (`lost`).
        theta: angles of RoPE per position, one for each pair of features; None takes the angles of `base`.
        amplitude: factor on cosine and sine, as in YaRN.
        slopes: ALiBi's slope of each head; None takes the paper's.
        bias: `given` if the bias among the inputs is added to the scores, `none` if not.
    """

    heads: int
    kv_heads: int
    causal: bool = False
    window: int | None = None
    scale: float | None = None
    softcap: float | None = None
    rope: str = "none"
    base: float = 10000.0
    turned: int | None = None
    stretch: float = 1.0
    first: int = 0
    first_key: int = 0
    sign: int = 1
    roped: str = "qk"
    alibi: str = "none"
    mask: str = "none"
    late: int = 0
    softmax: str = "keys"
    groups: str = "repeat"
    split: str = "heads"
    merge: str = "heads"
    swapped: bool = False
    order: str = "qkv"
    offset: int = 0
    cached: str = "once"
    theta: tuple[float, ...] | None = None
    amplitude: float = 1.0
    slopes: tuple[float, ...] | None = None
    bias: str = "none"


class Given(NamedTuple):
    """The inputs of an attention layer besides its queries, keys and values.

    Attributes:
        mask: True where a query may attend to a key, `(batch, 1, query|1, key)`, or an additive mask, which leaves the
            weights of a fully masked row equal; None for none.
        bias: added to the scores, `(batch|1, heads|1, query, key)`; None for none.
        past: cached keys and values, `(batch, kv_heads, length, head_dim)`; None for none.
    """

    mask: Array | None = None
    bias: Array | None = None
    past: tuple[Array, Array] | None = None


def attend(core: Core, query: Array, key: Array, value: Array, given: Given | None = None) -> Array:
    """Attention's output before the output projection, `(batch, query, features)`.

    Args:
        core: the computation.
        query, key, value: results of the projections, `(batch, length, features)`.
        given: the mask, the bias and the KV cache; None for none.
    """
    mask, bias, past = given or Given()
    projected = {"q": query, "k": key, "v": value}
    query, key, value = (projected[role] for role in core.order)
    if core.swapped:
        query, key, value = (x.swapaxes(0, 1) for x in (query, key, value))
    batch, length, _ = query.shape
    q = _split(core, "q", query, core.heads)
    k, v = _split(core, "k", key, core.kv_heads), _split(core, "v", value, core.kv_heads)
    if core.rope != "none":
        if "q" in core.roped:
            q = _rope(core, q, core.first)
        for _ in range(core.roped.count("k")):
            k = _rope(core, k, core.first_key)
    if past is not None and core.cached != "lost":
        before = _rope(core, past[0], 0) if core.cached == "twice" else past[0]
        k, v = np.concatenate([before, k], 2), np.concatenate([past[1], v], 2)
    if core.kv_heads != core.heads:
        times = core.heads // core.kv_heads
        k, v = (
            np.tile(x, (1, times, 1, 1)) if core.groups == "tile" else np.repeat(x, times, 1) for x in (k, v)
        )
    scale = q.shape[-1] ** -0.5 if core.scale is None else core.scale
    scores = q @ k.swapaxes(-1, -2) * scale
    if core.softcap is not None:
        scores = core.softcap * np.tanh(scores / core.softcap)
    if core.alibi != "none":
        scores = scores + _alibi(core, length, k.shape[-2])
    if bias is not None and core.bias == "given":
        scores = scores + bias
    if (
        mask is not None and mask.dtype.kind == "f"
    ):  # every score of a fully masked row becomes the same number
        scores = np.where(_masked(core, mask > HIDDEN), scores, LOWEST)
        mask = None
    seen = _seen(core, length, k.shape[-2], None if core.swapped else mask)
    scores = np.where(seen, scores, -np.inf)
    axis = -1 if core.softmax == "keys" else -2
    top = scores.max(axis, keepdims=True)
    weights = np.exp(scores - np.where(np.isfinite(top), top, 0))
    total = weights.sum(axis, keepdims=True)
    weights = weights / np.where(total, total, 1)
    out = weights @ v
    if core.merge == "reversed":
        out = out[:, ::-1]
    merged = (out if core.merge == "raw" else out.swapaxes(1, 2)).reshape(batch, length, -1)
    return merged.swapaxes(0, 1) if core.swapped else merged


def _split(core: Core, name: str, x: Array, heads: int) -> Array:
    letters, _, kind = core.split.rpartition(" ")
    batch, length, _ = x.shape
    if kind == "raw" and (not letters or name in letters):
        return x.reshape(batch, heads, length, -1)
    if kind == "inner" and (not letters or name in letters):
        return x.reshape(batch, length, -1, heads).transpose(0, 3, 1, 2)
    return x.reshape(batch, length, heads, -1).swapaxes(1, 2)


def _rope(core: Core, x: Array, first: int) -> Array:
    dim = core.turned or x.shape[-1]
    theta = core.base ** (-np.arange(0, dim, 2) / dim) if core.theta is None else np.asarray(core.theta)
    angle = core.sign * np.outer((np.arange(x.shape[-2]) + first) / core.stretch, theta)
    pairs = (
        (slice(0, dim, 2), slice(1, dim, 2))
        if core.rope == "interleaved"
        else (slice(0, dim // 2), slice(dim // 2, dim))
    )
    a, b = (x[..., pair] for pair in pairs)
    cos, sin = core.amplitude * np.cos(angle), core.amplitude * np.sin(angle)
    turned = x.copy()
    turned[..., pairs[0]] = a * cos - b * sin
    turned[..., pairs[1]] = b * cos + a * sin
    return turned


def slopes(heads: int) -> Array:
    """ALiBi's slopes (Press, Smith & Lewis 2022), for any number of heads."""
    power = 2 ** int(np.floor(np.log2(heads)))
    first = 2.0 ** (-8 / power * np.arange(1, power + 1))
    rest = 2.0 ** (-4 / power * np.arange(1, 2 * (heads - power), 2))
    return np.concatenate([first, rest])


def _alibi(core: Core, queries: int, keys: int) -> Array:
    slope = slopes(core.heads) if core.slopes is None else np.asarray(core.slopes)
    slope = slope[::-1] if core.alibi == "reversed" else slope
    distance = np.abs(np.arange(queries)[:, None] + core.offset - np.arange(keys))
    bias = -slope[:, None, None] * distance
    return -bias if core.alibi == "positive" else bias


def _seen(core: Core, queries: int, keys: int, mask: Array | None) -> Array:
    seen = np.ones((1, 1, queries, keys), bool)
    distance = np.arange(queries)[:, None] + core.offset + core.late - np.arange(keys)
    if core.causal:
        seen = seen & (distance >= 0)
    if core.window is not None:
        seen = seen & (distance < core.window) if core.causal else seen & (np.abs(distance) < core.window)
    return seen if mask is None else seen & _masked(core, mask)


def _masked(core: Core, mask: Array) -> Array:
    """The mask as the computation takes it."""
    kinds: dict[str, Callable[[], Array]] = {
        "none": lambda: np.ones_like(mask),
        "inverted": lambda: ~mask,
        "queries": lambda: mask.swapaxes(-1, -2),
        "other": lambda: np.roll(mask, 1, 0),
    }
    return kinds.get(core.mask, lambda: mask)()
