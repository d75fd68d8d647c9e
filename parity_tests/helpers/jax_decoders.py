"""Decoders in NumPy, in float64, from the names of MaxText and of Tunix.

Written from the formulas of the two libraries. `Shape` says which of them a decoder has.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Shape:
    """Options of a decoder.

    Attributes:
        layers: number of layers.
        scale: factor on the scores.
        theta: base of the rotary angles.
        neighbours: whether a rotary pair has neighbouring features, instead of features that are half a head apart.
        gelu: whether the gate is a gelu with tanh, instead of a silu.
        offset: number that is added to the weights of the norms.
        embed_scale: factor on the embeddings.
        logit_scale: factor on the logits.
        sandwich: whether the outputs of the sublayers have norms, too.
        windows: number of visible keys of each layer; None for no limit.
        softcap, logit_softcap: bounds of scores and logits; None for none.
        theta_of_windows, stretch: base of the angles in layers with a window, and divisor of the other positions.
    """

    layers: int
    scale: float
    theta: float = 10000.0
    neighbours: bool = False
    gelu: bool = False
    offset: float = 0.0
    embed_scale: float = 1.0
    logit_scale: float = 1.0
    sandwich: bool = False
    windows: tuple[int | None, ...] = ()
    softcap: float | None = None
    logit_softcap: float | None = None
    theta_of_windows: float | None = None
    stretch: float = 1.0


def capped(x, bound):
    return x if bound is None else bound * np.tanh(x / bound)


def rotated(x, shape, theta, stretch):
    """Queries or keys `(batch, length, heads, features)`, each pair rotated by its position."""
    half = x.shape[-1] // 2
    angles = np.arange(x.shape[1])[:, None] / stretch * theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[None, :, None], np.sin(angles)[None, :, None]
    one, two = (x[..., ::2], x[..., 1::2]) if shape.neighbours else (x[..., :half], x[..., half:])
    turned = one * cos - two * sin, two * cos + one * sin
    return np.stack(turned, -1).reshape(x.shape) if shape.neighbours else np.concatenate(turned, -1)


def logits(layer, names, tokens, shape):
    """The logits of tokens.

    Args:
        layer: function of a number that returns the tensors of a layer, by the short names in `attend` and `feed`.
        names: the embedding, the weight of the last norm, and the kernel of the head; None for tied embeddings.
        tokens: token ids `(batch, length)`.
        shape: options of the decoder.
    """
    embedding, last, head = names

    def norm(x, weight):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * (weight + shape.offset)

    x = embedding[tokens] * shape.embed_scale
    for n in range(shape.layers):
        t = layer(n)
        window = shape.windows[n] if shape.windows else None
        y = attend(t, norm(x, t["attention_norm"]), shape, window, norm)
        x = x + (norm(y, t["attention_output_norm"]) if shape.sandwich else y)
        y = feed(t, norm(x, t["ffn_norm"]), shape)
        x = x + (norm(y, t["ffn_output_norm"]) if shape.sandwich else y)
    x = norm(x, last)
    return capped((x @ (embedding.T if head is None else head)) * shape.logit_scale, shape.logit_softcap)


def attend(t, x, shape, window, norm):
    """Grouped attention: `q`, `k`, `v` of shape `(in, heads, features)`, `o` of shape `(heads, features, out)`."""
    q, k, v = (np.einsum("bli,ihd->blhd", x, t[name]) + t.get(f"{name}_bias", 0) for name in "qkv")
    if "q_norm" in t:
        q, k = norm(q, t["q_norm"]), norm(k, t["k_norm"])
    local = window is not None and shape.theta_of_windows is not None
    theta, stretch = (shape.theta_of_windows, 1.0) if local else (shape.theta, shape.stretch)
    q, k = (rotated(y, shape, theta, stretch) for y in (q, k))
    places = np.arange(x.shape[1])
    seen = places[:, None] >= places
    if window is not None:
        seen &= places[:, None] - places < window
    heads = []
    for h in range(q.shape[2]):
        group = h // (q.shape[2] // k.shape[2])
        scores = capped(q[:, :, h] @ k[:, :, group].swapaxes(1, 2) * shape.scale, shape.softcap)
        weights = np.where(seen, np.exp(scores), 0)
        heads.append(weights / weights.sum(-1, keepdims=True) @ v[:, :, group])
    return sum(y @ t["o"][h] for h, y in enumerate(heads))


def feed(t, x, shape):
    gate = x @ t["gate"]
    if shape.gelu:
        gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
    else:
        gate = gate / (1 + np.exp(-gate))
    return (gate * (x @ t["up"])) @ t["down"]
