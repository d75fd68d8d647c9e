"""Named leaves of modules, states and parameter trees of either framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.weights.leaves import framework, is_jax, is_torch, like, to_torch

Path = tuple[Any, ...]


class Container(NamedTuple):
    """The named leaves of an object.

    Attributes:
        layout: name of the default layout for this kind of object.
        leaves: tensors by name.
        put: function of arrays by name; fills a module in place and returns it, or returns a new tree.
        axes: sizes of axes that the leaves give and that shapes in the canonical layout do not.
    """

    layout: str
    leaves: dict[str, Any]
    put: Callable[[Mapping[str, np.ndarray]], Any]
    axes: Mapping[str, int] = {}


def open_container(holder: Any) -> Container:
    """Return the named leaves of a module, state or parameter tree.

    Args:
        holder: torch module, mapping of names to torch tensors or numpy arrays, NNX module, NNX state, Keras layer or
            model, Equinox module, or a Linen tree of parameters with or without its collections.

    Raises:
        TypeError: `holder` is none of these.
        ValueError: two leaves have the same name.
    """
    torch, nnx, keras = framework("torch"), framework("flax.nnx"), framework("keras")
    if keras is not None and isinstance(holder, keras.layers.Layer):
        return _keras_layer(keras, holder)
    if torch is not None and isinstance(holder, torch.nn.Module):
        return _torch_module(torch, holder)
    if nnx is not None and isinstance(holder, nnx.Module):
        return _nnx_module(nnx, holder)
    if nnx is not None and isinstance(holder, nnx.State):
        return _nnx_state(nnx, holder)
    equinox = framework("equinox")
    if equinox is not None and isinstance(holder, equinox.Module):
        return _equinox_module(equinox, holder)
    if isinstance(holder, Mapping):
        nested = any(isinstance(value, Mapping) for value in holder.values())
        if nested or any(is_jax(value) for value in holder.values()):
            return _linen_tree(holder)
        return _state_dict(holder)
    raise TypeError(
        "source and target are a torch module, a mapping of names to tensors, an NNX module, an NNX state, "
        f"a Keras layer, an Equinox module or a Linen tree, but got {type(holder).__name__}"
    )


def tied_names(leaves: Mapping[str, Any]) -> list[list[str]]:
    """Groups of names that share one torch tensor."""
    groups: dict[Any, list[str]] = {}
    for name, leaf in leaves.items():
        if is_torch(leaf) and leaf.numel() > 0 and not leaf.is_meta:
            same = (leaf.device, leaf.data_ptr(), leaf.shape, leaf.stride(), leaf.dtype)
            groups.setdefault(same, []).append(name)
    return [names for names in groups.values() if len(names) > 1]


def _torch_module(torch: Any, module: Any) -> Container:
    def put(arrays: Mapping[str, np.ndarray]) -> Any:
        module.load_state_dict({name: to_torch(array) for name, array in arrays.items()})
        return module

    is_mha = isinstance(module, torch.nn.MultiheadAttention)
    return Container("torch.mha" if is_mha else "torch_attention", dict(module.state_dict()), put)


def _keras_layer(keras: Any, layer: Any) -> Container:
    """The weights of a Keras layer by path; those in an attention layer itself have no path prefix."""
    if not layer.built:
        raise ValueError(f"{layer.name} has no weights yet: build it, or call it once")
    is_grouped = isinstance(layer, keras.layers.GroupQueryAttention)
    alone = is_grouped or isinstance(layer, keras.layers.MultiHeadAttention)
    variables = {}
    for variable in layer.weights:
        *above, part, leaf = variable.path.split("/")
        name = ".".join((part, leaf) if alone else (*above, part, leaf))
        if name in variables:
            raise ValueError(f"two weights of the model are called {name!r}: give its layers unique names")
        variables[name] = variable

    def put(arrays: Mapping[str, np.ndarray]) -> Any:
        for name, variable in variables.items():
            variable.assign(like(variable.value, arrays[name]))
        return layer

    axes = {}
    for name, variable in variables.items():
        for end, axis in (("query.kernel", "d"), ("value.kernel", "v")):
            if f".{name}".endswith(f".{end}") and len(variable.shape) == 3:
                axes[name.removesuffix(end) + axis] = int(variable.shape[-1])
    leaves = {name: variable.value for name, variable in variables.items()}
    return Container("keras.gqa" if is_grouped else "keras.mha", leaves, put, axes)


def _state_dict(mapping: Mapping[str, Any]) -> Container:
    def put(arrays: Mapping[str, np.ndarray]) -> Any:
        return type(mapping)({name: like(leaf, arrays[name]) for name, leaf in mapping.items()})  # type: ignore[call-arg]

    return Container("torch_attention", dict(mapping), put)


def _nnx_module(nnx: Any, module: Any) -> Container:
    state = _nnx_state(nnx, nnx.state(module, nnx.Not(nnx.RngState)))

    def put(arrays: Mapping[str, np.ndarray]) -> Any:
        nnx.update(module, state.put(arrays))
        return module

    return state._replace(put=put)


def _nnx_state(nnx: Any, state: Any) -> Container:
    variables = dict(nnx.to_flat_state(state))
    tensors = {path: v for path, v in variables.items() if not isinstance(v, nnx.RngState)}
    names = _names(tensors)

    def value(variable: Any) -> Any:
        return variable.get_value() if isinstance(variable, nnx.Variable) else variable

    def put(arrays: Mapping[str, np.ndarray]) -> Any:
        filled = dict(variables)
        for path, variable in tensors.items():
            leaf = like(value(variable), arrays[names[path]])
            filled[path] = variable.replace(leaf) if isinstance(variable, nnx.Variable) else leaf
        return nnx.from_flat_state(filled.items())

    return Container("jax_attention", {names[path]: value(v) for path, v in tensors.items()}, put)


def _equinox_module(equinox: Any, module: Any) -> Container:
    """The arrays of an Equinox module, by the path of their fields; a new module holds others."""
    jax = framework("jax")
    assert jax is not None  # Equinox needs it
    placed, structure = jax.tree_util.tree_flatten_with_path(module)
    named = [
        (
            ".".join(
                str(getattr(key, "name", getattr(key, "idx", getattr(key, "key", key)))) for key in path
            ),
            leaf,
        )
        for path, leaf in placed
    ]

    def put(arrays: Mapping[str, np.ndarray]) -> Any:
        leaves = [like(leaf, arrays[name]) if equinox.is_array(leaf) else leaf for name, leaf in named]
        return jax.tree_util.tree_unflatten(structure, leaves)

    return Container("torch_attention", {name: leaf for name, leaf in named if equinox.is_array(leaf)}, put)


def _linen_tree(tree: Mapping[str, Any]) -> Container:
    leaves = dict(_flatten(tree))
    has_collections = isinstance(tree.get("params"), Mapping)
    names = _names(leaves, skip=1 if has_collections else 0)

    def put(arrays: Mapping[str, np.ndarray]) -> Any:
        return _rebuild(tree, {path: like(leaf, arrays[names[path]]) for path, leaf in leaves.items()})

    return Container("linen", {names[path]: leaf for path, leaf in leaves.items()}, put)


def _flatten(tree: Mapping[Any, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, (*path, key))
        else:
            yield (*path, key), value


def _rebuild(tree: Any, leaves: Mapping[Path, Any], path: Path = ()) -> Any:
    """A tree with the structure and types of `tree` and the given leaves."""
    if not isinstance(tree, Mapping):
        return leaves[path]
    return type(tree)({key: _rebuild(value, leaves, (*path, key)) for key, value in tree.items()})  # type: ignore[call-arg]


def _names(leaves: Mapping[Path, Any], skip: int = 0) -> dict[Path, str]:
    """Dotted names of paths, without the first `skip` parts."""
    names = {path: ".".join(map(str, path[skip:])) for path in leaves}
    taken: set[str] = set()
    for name in names.values():
        if name in taken:
            raise ValueError(f"two leaves of the tree are called {name!r}")
        taken.add(name)
    return names
