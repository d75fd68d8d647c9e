"""The layers of a PyTorch module, by the types of its submodules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attention_bridge.weights.leaves import framework
from attention_bridge.weights.module_checks import is_conv1d
from attention_bridge.weights.rule import IDENTITY
from attention_bridge.weights.twins.layers import Layer, Leaf, layer

ROLES = {"scale": "weight", "gamma": "weight", "beta": "bias"}  # names of a norm's vectors
GATES = {"GRUCell": 3, "LSTMCell": 4, "RNNCell": 1}


def torch_layers(module: Any, names: Mapping[str, Any]) -> list[Layer]:
    """The layers in the order of their definition.

    Args:
        module: PyTorch module.
        names: the tensors of its state dict by name.
    """
    found: list[Layer] = []
    for path, each in module.named_modules():
        found += _own(path, each, names)
    return found


def _own(path: str, module: Any, names: Mapping[str, Any]) -> Iterator[Layer]:
    """The layers whose tensors lie directly in a module."""
    prefix = f"{path}." if path else ""
    own = {
        name.removeprefix(prefix): tensor
        for name, tensor in names.items()
        if name.startswith(prefix) and "." not in name.removeprefix(prefix)
    }
    own.pop("num_batches_tracked", None)
    torch = framework("torch")
    title = type(module).__name__
    at = tuple(path.split(".")) if path else ()

    def of(kind: str, leaves: list[Leaf]) -> Layer:
        named = [Leaf(prefix + each.name, each.roles, each.pattern, each.flipped) for each in leaves]
        shapes = {prefix + name: tuple(tensor.shape) for name, tensor in own.items()}
        return layer(at, kind, named, shapes, title)

    if isinstance(module, torch.nn.MultiheadAttention):
        yield of("attention", _attention(own))
        return
    if isinstance(module, torch.nn.RNNCellBase) and title in GATES:
        yield of(title.removesuffix("Cell").lower(), [*_gates(own, GATES[title])])
        return
    kind = _kind(torch, module)
    if kind is not None and own:
        pattern = "i o -> o i" if is_conv1d(module) else IDENTITY
        yield of(
            kind,
            [Leaf(name, (ROLES.get(name, name),), pattern if name == "weight" else IDENTITY) for name in own],
        )
        return
    for name in own:
        yield layer(
            (*at, name),
            "parameter",
            [Leaf(prefix + name, ("value",))],
            {prefix + name: own[name].shape},
            name,
        )


def _kind(torch: Any, module: Any) -> str | None:
    """The kind of a layer whose tensors are a weight and perhaps a bias and statistics; None for another module."""
    nn = torch.nn
    if isinstance(module, nn.Linear) or is_conv1d(module):
        return "linear"
    if isinstance(module, nn.Embedding):
        return "embedding"
    if isinstance(module, nn.modules.batchnorm._NormBase):
        return "statistics norm" if module.track_running_stats else "norm"
    if isinstance(module, nn.modules.conv._ConvTransposeNd):
        return "transposed convolution"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "convolution"
    if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) or _is_norm(module):
        return "norm"
    return None


def _is_norm(module: Any) -> bool:
    """Whether a module is a norm by its name, with one vector as weight."""
    is_named = type(module).__name__.lower().endswith("norm")
    own = dict(module.named_parameters(recurse=False))
    weights = [name for name in own if ROLES.get(name, name) == "weight"]
    return is_named and len(weights) == 1 and own[weights[0]].ndim == 1 and not [*module.children()]


def _attention(own: Mapping[str, Any]) -> list[Leaf]:
    """Projections of queries, keys and values in one tensor or three; the output projection is a layer of its own."""
    roles = ("query", "key", "value")
    leaves = []
    if "in_proj_weight" in own:
        leaves.append(Leaf("in_proj_weight", roles))
    leaves += [Leaf(f"{role[0]}_proj_weight", (role,)) for role in roles if f"{role[0]}_proj_weight" in own]
    if "in_proj_bias" in own:
        leaves.append(Leaf("in_proj_bias", tuple(f"{role} bias" for role in roles)))
    return leaves + [Leaf(name, (name,)) for name in ("bias_k", "bias_v") if name in own]


def _gates(own: Mapping[str, Any], count: int) -> Iterator[Leaf]:
    for side in ("ih", "hh"):
        yield Leaf(f"weight_{side}", tuple(f"{side} {gate}" for gate in range(count)))
    for side in ("ih", "hh"):
        if f"bias_{side}" in own:
            yield Leaf(f"bias_{side}", tuple(f"{side} bias {gate}" for gate in range(count)))
