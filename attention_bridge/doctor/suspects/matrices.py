"""Mistakes in weights: transposes, biases, exchanged projections, head order and fused matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from einops import rearrange

from attention_bridge.doctor.port import Array, Port
from attention_bridge.doctor.suspects.suspect import Suspect

QKV = ("q_proj", "k_proj", "v_proj")
PROJECTIONS = (*QKV, "out_proj")
MAPS = (*PROJECTIONS, "ffn.up_proj", "ffn.down_proj")
KINDS = ("weight", "bias")


def rearranged(port: Port, weight: Array, pattern: str, **sizes: int) -> Array:
    """Apply `einops.rearrange`, once for all ports that share this weight."""
    options = ("rearrange", pattern, *sizes.items())
    return port.keep((weight,), options, lambda: np.asarray(rearrange(weight, pattern, **sizes)))


def not_transposed(port: Port, *, names: tuple[str, ...]) -> Iterator[Port]:
    """Plant weights reshaped to the transposed shape instead of transposed, in either direction."""
    weights = {f"{name}.weight": port.weights.get(f"{name}.weight") for name in names}
    present = {name: w for name, w in weights.items() if w is not None and min(w.shape) > 1}
    if len(present) < min(len(names), 2):
        return
    yield port.put({name: w.reshape(w.shape[::-1]).T for name, w in present.items()})
    if any(w.shape[0] != w.shape[1] for w in present.values()):
        yield port.put({name: w.T.reshape(w.shape) for name, w in present.items()})


def without_bias(port: Port, *, names: tuple[str, ...]) -> Iterator[Port]:
    """Plant missing biases."""
    present = [f"{name}.bias" for name in names if f"{name}.bias" in port.weights]
    if len(present) >= min(len(names), 2):
        yield port.drop(*present)


def exchanged(port: Port, *, order: str) -> Iterator[Port]:
    """Plant exchanged projections: `kqv` makes queries with k_proj, keys with q_proj and values with v_proj."""
    moves = [
        (f"{a}_proj.{kind}", f"{b}_proj.{kind}") for a, b in zip("qkv", order, strict=True) for kind in KINDS
    ]
    if all(_shape(port, a) == _shape(port, b) for a, b in moves):
        yield port.put({a: port.weights[b] for a, b in moves if b in port.weights})


def features_before_heads(port: Port, *, names: tuple[str, ...]) -> Iterator[Port]:
    """Plant heads split as (head_dim, heads) instead of (heads, head_dim), by the port or by the writer."""
    present = [name for name in names if f"{name}.weight" in port.weights]
    if len(present) < len(names):
        return
    for before, after in (("(d h)", "(h d)"), ("(h d)", "(d h)")):
        changed: dict[str, Array] = {}
        for name in present:
            heads = port.setting.kv_heads if name in ("k_proj", "v_proj") else port.setting.num_heads
            weight, bias = port.weights[f"{name}.weight"], port.weights.get(f"{name}.bias")
            if name == "out_proj":
                changed[f"{name}.weight"] = rearranged(port, weight, f"o {before} -> o {after}", h=heads)
                continue
            changed[f"{name}.weight"] = rearranged(port, weight, f"{before} i -> {after} i", h=heads)
            if bias is not None:
                changed[f"{name}.bias"] = rearranged(port, bias, f"{before} -> {after}", h=heads)
        yield port.put(changed)


def fused_otherwise(port: Port, *, pattern: str) -> Iterator[Port]:
    """Plant a fused matrix of queries, keys and values that is split in another order than it was written in."""
    if len({_shape(port, f"{name}.weight") for name in QKV}) > 1:
        return
    for before, after in ((pattern, "(three h d)"), ("(three h d)", pattern)):
        yield _recut(
            port,
            lambda fused, before=before, after=after: rearrange(  # type: ignore[misc]
                fused, f"{before} -> {after}", h=port.setting.num_heads, three=3
            ),
        )


def fused_by_groups(port: Port) -> Iterator[Port]:
    """Plant a fused matrix written per group (queries, key, value) but split without groups, or the reverse."""
    heads, groups = port.setting.num_heads, port.setting.kv_heads
    key, value = port.weights["k_proj.weight"], port.weights["v_proj.weight"]
    if groups == heads or key.shape != value.shape:
        return

    def by_group(places: Array) -> Array:
        parts = np.split(places, [heads * port.head_dim, (heads + groups) * port.head_dim])
        return np.concatenate([part.reshape(groups, -1) for part in parts], axis=1).reshape(-1)

    yield _recut(port, by_group)
    yield _recut(port, lambda places: np.argsort(by_group(places)))


def tiled(port: Port) -> Iterator[Port]:
    """Plant tiled key/value heads: query head h uses key/value head h % groups."""
    heads, groups = port.setting.num_heads, port.setting.kv_heads
    if 1 < groups < heads:
        names = [name for name in port.weights if name.startswith(("k_proj.", "v_proj."))]
        repeats = heads // groups
        weights = {name: port.weights[name] for name in names}
        wide = {
            name: port.keep((w,), ("tile", repeats), lambda w=w: np.concatenate([w] * repeats))  # type: ignore[misc]
            for name, w in weights.items()
        }
        yield port.put(wide).set(num_kv_heads=heads)


def _recut(port: Port, order: Callable[[Array], Array]) -> Port:
    """Reorder the rows of the fused matrix and split it into queries, keys and values again."""
    changed: dict[str, Array] = {}
    for kind in KINDS:
        parts = [port.weights[f"{name}.{kind}"] for name in QKV if f"{name}.{kind}" in port.weights]
        if len(parts) == len(QKV):
            cuts = np.cumsum([len(part) for part in parts])
            places = order(np.arange(cuts[-1]))
            options = ("recut", places.tobytes())
            fused = port.keep(tuple(parts), options, lambda: np.concatenate(parts)[places])  # noqa: B023
            rows = np.split(fused, cuts[:-1])
            changed |= {f"{name}.{kind}": part for name, part in zip(QKV, rows, strict=True)}
    return port.put(changed)


def _shape(port: Port, name: str) -> tuple[int, ...] | None:
    return port.weights[name].shape if name in port.weights else None


def _table() -> Iterator[Suspect]:
    for name in MAPS:
        yield Suspect(
            f"{name} not transposed",
            f"uses the weight of {name} without transposing it",
            f"transpose the weight of {name}: (out, in) here is (in, out) in a kernel",
            partial(not_transposed, names=(name,)),
        )
    yield Suspect(
        "no matrix transposed",
        "uses every weight without transposing it",
        "transpose every weight: (out, in) here is (in, out) in a kernel",
        partial(not_transposed, names=MAPS),
    )
    for name in MAPS:
        yield Suspect(
            f"{name} without bias",
            f"does not add the bias of {name}",
            f"add the bias of {name}",
            partial(without_bias, names=(name,)),
        )
    yield Suspect(
        "no biases", "adds no bias", "add the biases of all linear maps", partial(without_bias, names=MAPS)
    )
    for order in ("kqv", "vkq", "qvk", "kvq", "vqk"):
        moved = [f"{a}_proj" for a, b in zip("qkv", order, strict=True) if a != b]
        yield Suspect(
            f"projections in the order {', '.join(order)}",
            f"exchanges {' and '.join(moved)}"
            if len(moved) == 2
            else "rotates the roles of q_proj, k_proj and v_proj",
            f"give queries, keys and values their own weights, not the weights of {', '.join(order)}",
            partial(exchanged, order=order),
        )
    for names in (*((name,) for name in PROJECTIONS), QKV, PROJECTIONS):
        which = ", ".join(names)
        yield Suspect(
            f"head order (D, H) in {which}",
            f"splits the features of {which} as (head_dim, heads) although they are (heads, head_dim)",
            f"split the features of {which} as (heads, head_dim)",
            partial(features_before_heads, names=names),
        )
    for pattern, words in (
        ("(h three d)", "(H, 3, D)"),
        ("(h d three)", "(H, D, 3)"),
        ("(d three h)", "(D, 3, H)"),
    ):
        yield Suspect(
            f"fused q, k, v as {words}",
            f"exchanges {words} and (3, H, D) as the order of the fused matrix of queries, keys and values",
            f"split the fused matrix as it was written, (3, H, D) or {words}",
            partial(fused_otherwise, pattern=pattern),
        )
    yield Suspect(
        "fused q, k, v by groups",
        "exchanges two orders of the fused matrix: group by group, and all queries, all keys, all values",
        "split the fused matrix as it was written, group by group or not",
        fused_by_groups,
    )
    yield Suspect(
        "key/value heads tiled",
        "uses key/value head h % G for query head h instead of h // (H / G)",
        "repeat each key/value head for its group (repeat, not tile)",
        tiled,
    )


MATRICES: tuple[Suspect, ...] = tuple(_table())
