"""Possible numbers of heads of a layer, from the attributes of modules or from its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from attention_bridge.weights.draft.links import Link
from attention_bridge.weights.leaves import framework

COUNTS = (
    "num_heads",
    "n_heads",
    "n_head",
    "nhead",
    "heads",
    "h",
    "num_attention_heads",
    "num_kv_heads",
    "n_kv_heads",
    "n_kv_head",
    "kv_heads",
    "num_key_value_heads",
    "num_groups",
)
SIZES = ("head_dim", "d_head", "dim_head", "head_size", "head_width")
MOST = 10


def possible_heads(
    holders: Sequence[Any], axes: Mapping[str, int], deep: bool
) -> Callable[[Link], Sequence[int]]:
    """A function of a link that returns its possible numbers of heads.

    Args:
        holders: both models.
        axes: sizes that the user gives; `h`, `g` and `d` are numbers of heads, of key heads, and of features.
        deep: whether to try all divisors of the rows if nothing else is known.
    """
    counts = {axes[name] for name in ("h", "g") if name in axes}
    sizes = {axes["d"]} if "d" in axes else set()
    if not counts and not sizes:
        for module in (each for holder in holders for each in _modules(holder)):
            for owner in (module, getattr(module, "config", None), getattr(module, "cfg", None)):
                counts |= {*_numbers(owner, COUNTS)}
                sizes |= {*_numbers(owner, SIZES)}

    def heads(link: Link) -> list[int]:
        many = link.ours if len(link.ours) > 1 else link.theirs
        rows = min(piece.canonical[0] for piece in many)
        if not link.is_fused and not rows % 3 and not _fits(rows, counts, sizes):
            rows //= 3
        known = _fits(rows, counts, sizes)
        if known:
            return sorted(known)
        if counts or sizes or not deep:
            return []
        return [number for number in range(2, rows) if rows % number == 0][:MOST]

    return heads


def _fits(rows: int, counts: set[int], sizes: set[int]) -> set[int]:
    found = {each for each in counts if rows % each == 0}
    return found | {rows // each for each in sizes if rows % each == 0}


def _numbers(owner: Any, names: Sequence[str]) -> Iterator[int]:
    for name in names:
        value = owner.get(name) if isinstance(owner, Mapping) else getattr(owner, name, None)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            yield value


def _modules(holder: Any) -> Iterator[Any]:
    torch, nnx = framework("torch"), framework("flax.nnx")
    if torch is not None and isinstance(holder, torch.nn.Module):
        yield from holder.modules()
    elif nnx is not None and isinstance(holder, nnx.Module):
        yield from (node for _, node in nnx.iter_graph(holder) if isinstance(node, nnx.Module))
