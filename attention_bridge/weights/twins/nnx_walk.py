"""The layers of a Flax NNX module, by the types of its submodules."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import replace
from typing import Any

from attention_bridge.weights.leaves import framework
from attention_bridge.weights.rule import IDENTITY
from attention_bridge.weights.twins.layers import Layer, Leaf, joined, layer, space

Path = tuple[str, ...]
NORMS = ("LayerNorm", "RMSNorm", "GroupNorm", "InstanceNorm")
ROLES = {
    "kernel": "weight",
    "embedding": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
    "weight": "weight",
    "gamma": "weight",
    "beta": "bias",
}


def nnx_layers(module: Any, names: Container[str]) -> list[Layer]:
    """The layers in the order of their definition; one layer for each of a stack, such as `nnx.vmap` makes.

    Args:
        module: NNX module.
        names: names of the variables of its state; of a shared variable it has one of the names.
    """
    nnx = framework("flax.nnx")
    places: dict[int, list[str]] = {}
    _variables(nnx, module, (), places, set())
    shared = {
        name: next((each for each in same if each in names), name)
        for same in places.values()
        for name in same
    }
    found = unstacked([*_walk(nnx, module, (), set())])
    return [
        replace(
            each, leaves=tuple(replace(leaf, name=shared.get(leaf.name, leaf.name)) for leaf in each.leaves)
        )
        for each in found
    ]


def _variables(nnx: Any, node: Any, path: Path, places: dict[int, list[str]], seen: set[int]) -> None:
    """Put all names of each variable into `places`."""
    if isinstance(node, nnx.Variable):
        places.setdefault(id(node), []).append(".".join(path))
    elif isinstance(node, nnx.Module | nnx.Pytree) and id(node) not in seen:
        seen.add(id(node))
        for name, value in vars(node).items():
            _variables(nnx, value, (*path, name), places, seen)


def _walk(nnx: Any, module: Any, path: Path, seen: set[int]) -> Iterator[tuple[Layer, int | None]]:
    """The layers, each with the number of layers in its stack or None; modules that are shared count once."""
    if id(module) in seen:
        return
    seen.add(id(module))
    known = _Known(nnx, module, path)
    found, inside = known.layers()
    yield from found
    for name, value in vars(module).items():
        if name.startswith("_pytree__") or name in inside:
            continue
        if isinstance(value, nnx.Variable) and not isinstance(value, nnx.RngState):
            place = ".".join((*path, name))
            shapes = {place: value.get_value().shape}
            yield layer((*path, name), "parameter", [Leaf(place, ("value",))], shapes, name), None
        elif isinstance(value, nnx.Module | nnx.Pytree):
            yield from _walk(nnx, value, (*path, name), seen)


def _own_norm(nnx: Any, module: Any) -> list[str] | None:
    """The vectors of a norm of one's own, by its name; None if the module is another one."""
    if not (isinstance(module, nnx.Module) and type(module).__name__.lower().endswith("norm")):
        return None
    held = {name: value for name, value in vars(module).items() if isinstance(value, nnx.Variable)}
    is_norm = {*held} <= ROLES.keys() and all(each.get_value().ndim < 3 for each in held.values())
    inside = any(isinstance(value, nnx.Module) for value in vars(module).values())
    return sorted(held, key=lambda name: ROLES[name] != "weight") if held and is_norm and not inside else None


class _Known:
    """A submodule of one of Flax's types.

    Args:
        nnx: the module `flax.nnx`.
        module: the submodule.
        path: where it is.
    """

    def __init__(self, nnx: Any, module: Any, path: Path) -> None:
        self.nnx, self.module, self.path = nnx, module, path

    def layers(self) -> tuple[list[tuple[Layer, int | None]], set[str]]:
        """The layers that the submodule is, and the names of its attributes that belong to them."""
        nnx, module = self.nnx, self.module
        if isinstance(module, nnx.MultiHeadAttention):
            return [self.attention(module)], {"query", "key", "value"}
        if isinstance(module, nnx.LSTMCell | nnx.OptimizedLSTMCell | nnx.GRUCell | nnx.SimpleCell):
            return [self.cell(module)], set(vars(module))
        if isinstance(module, nnx.LinearGeneral):
            ins, outs = (_count(each) for each in (module.in_features, module.out_features))
            return self.one("linear", _general(ins, outs), ins + outs)
        if isinstance(module, nnx.Linear):
            return self.one("linear", {"kernel": "i o -> o i"}, 2)
        if isinstance(module, nnx.Embed):
            return self.one("embedding", {"embedding": "n e -> n e"}, 2)
        if isinstance(module, nnx.Conv | nnx.ConvTranspose):
            rank = _count(module.kernel_size) + 2
            axes = space(rank)
            if isinstance(module, nnx.Conv):
                return self.one("convolution", {"kernel": f"{axes} i o -> o i {axes}"}, rank)
            ours = f"{axes} o i" if module.transpose_kernel else f"{axes} i o"
            flipped = not module.transpose_kernel
            return self.one("transposed convolution", {"kernel": f"{ours} -> i o {axes}"}, rank, flipped)
        if isinstance(module, nnx.BatchNorm):
            return self.one("statistics norm", dict.fromkeys(("scale", "bias", "mean", "var"), ""), 1)
        if type(module).__name__ in NORMS and isinstance(module, nnx.Module):
            return self.one("norm", dict.fromkeys(("scale", "bias"), ""), 1)
        if (own := _own_norm(nnx, module)) is not None:
            return self.one("norm", dict.fromkeys(own, ""), 1)
        return [], set()

    def one(
        self, kind: str, patterns: dict[str, str], rank: int, flipped: bool = False
    ) -> tuple[list[tuple[Layer, int | None]], set[str]]:
        """A layer whose first tensor has `rank` axes, or one more in a stack."""
        given = {name: _value(self.module, name) for name in {**patterns, "bias": ""}}
        held = {name: array.shape for name, array in given.items() if array is not None}
        if not held:
            return [], set()
        first = next(iter(held))
        stack = held[first][0] if first != "bias" and len(held[first]) > rank else None
        leaves = [
            Leaf(
                name, (ROLES[name],), patterns.get(name) or _flat(shape, stack), flipped and name == "kernel"
            )
            for name, shape in held.items()
        ]
        return [(self.described(kind, leaves, held, stack), stack)], set(held)

    def described(self, kind: str, leaves: list[Leaf], held: dict[str, Any], stack: int | None) -> Layer:
        named = [replace(each, name=".".join((*self.path, each.name))) for each in leaves]
        shapes = {
            ".".join((*self.path, name)): shape if stack is None else shape[1:]
            for name, shape in held.items()
        }
        return layer(self.path, kind, named, shapes, type(self.module).__name__)

    def attention(self, module: Any) -> tuple[Layer, int | None]:
        """Queries, keys and values; the output projection is a layer of its own."""
        held, leaves = {}, []
        for role in ("query", "key", "value"):
            part = getattr(module, role)
            for name, end, pattern in (
                ("kernel", "", "e h d -> (h d) e"),
                ("bias", " bias", "h d -> (h d)"),
            ):
                array = _value(part, name)
                if array is not None:
                    held[f"{role}.{name}"] = array.shape
                    leaves.append(Leaf(f"{role}.{name}", (f"{role}{end}",), pattern))
        stack = held["query.kernel"][0] if len(held["query.kernel"]) == 4 else None
        return self.described("attention", leaves, held, stack), stack

    def cell(self, module: Any) -> tuple[Layer, int | None]:
        """The products of inputs and of the state of a recurrent cell, for each gate."""
        gates = {"GRUCell": 3, "LSTMCell": 4, "OptimizedLSTMCell": 4, "SimpleCell": 1}[type(module).__name__]
        if isinstance(module, self.nnx.LSTMCell):
            parts: dict[str, tuple[str, tuple[int, ...]]] = {
                f"{side}{gate}": (f"{side}h" if side == "i" else "hh", (number,))
                for side in "ih"
                for number, gate in enumerate(("i", "f_" if side == "i" else "f", "g", "o"))
            }
        else:
            parts = {f"dense_{side}": (f"{side}h", tuple(range(gates))) for side in "ih"}
        held, leaves = {}, []
        for name, (side, numbers) in parts.items():
            for leaf, end, pattern in (("kernel", "", "i o -> o i"), ("bias", " bias", IDENTITY)):
                array = _value(getattr(module, name), leaf)
                if array is not None:
                    held[f"{name}.{leaf}"] = array.shape
                    roles = tuple(f"{side}{end} {number}" for number in numbers)
                    leaves.append(Leaf(f"{name}.{leaf}", roles, pattern))
        kind = {3: "gru", 4: "lstm", 1: "rnn"}[gates]
        return self.described(kind, leaves, held, None), None


def _value(module: Any, name: str) -> Any:
    """The array of a variable; None for none."""
    variable = getattr(module, name, None)
    return None if variable is None else variable.get_value()


def _flat(shape: tuple[int, ...], stack: int | None) -> str:
    """The pattern that makes the axes of a bias one axis; the pattern of a vector changes nothing."""
    axes = len(shape) - (stack is not None)
    names = joined(axes, "o")
    return f"{names} -> ({names})" if axes > 1 else IDENTITY


def _count(features: Any) -> int:
    return len(features) if isinstance(features, tuple | list) else 1


def _general(ins: int, outs: int) -> dict[str, str]:
    """The pattern of a linear layer with several axes of inputs or outputs."""
    before, after = joined(ins, "i"), joined(outs, "o")
    return {"kernel": f"{before} {after} -> ({after}) ({before})"}


def unstacked(found: list[tuple[Layer, int | None]]) -> list[Layer]:
    """The layers, with one for each of a stack: its number follows the path of the outermost module of the stack."""
    layers: list[Layer] = []
    for each, _ in found:
        root = _root(each.path, found)
        if root is None:
            layers.append(each)
            continue
        depth, count = root
        for number in range(count):
            path = (*each.path[:depth], str(number), *each.path[depth:])
            leaves = tuple(replace(leaf, number=number) for leaf in each.leaves)
            shapes = each.shapes if each.kind != "parameter" else {r: s[1:] for r, s in each.shapes.items()}
            layers.append(replace(each, path=path, leaves=leaves, shapes=shapes))
    return layers


def _root(path: Path, found: list[tuple[Layer, int | None]]) -> tuple[int, int] | None:
    """The length of the path of the outermost module whose layers are all stacked, and their number; None for none."""
    for depth in range(min(1, len(path) - 1), len(path) + 1):
        below = [(each, stack) for each, stack in found if each.path[:depth] == path[:depth]]
        counts = {stack for each, stack in below if each.kind != "parameter"}
        if len(counts) != 1 or None in counts:
            continue
        (count,) = counts
        own = [each.shapes["value"] for each, _ in below if each.kind == "parameter"]
        if count is not None and all(shape[:1] == (count,) for shape in own):
            return depth, count
    return None
