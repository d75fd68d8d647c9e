"""Comparison of module options that affect the output but that no tensor shows, such as `eps` and `num_heads`."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from attention_bridge.weights.leaves import framework, is_jax
from attention_bridge.weights.report import Match

# Attributes of modules, and the options' names in the mirrors.
ATTRIBUTES = {
    "num_heads": "num_heads",
    "num_kv_heads": "num_kv_heads",
    "num_groups": "num_groups",
    "eps": "eps",
    "epsilon": "eps",
    "norm_first": "norm_first",
    "is_causal": "is_causal",
    "window": "window",
    "softcap": "softcap",
    "lora_scale": "lora_scale",
}
NORM_FIRST = {"EncoderLayer": False, "ViTBlock": True}  # classes of the mirrors, by name
PROBE = np.linspace(-3, 3, 25, dtype=np.float32)

Options = Mapping[str, Mapping[str, Any]]


def differences(source: Any, target: Any, matches: Iterable[Match]) -> Iterator[tuple[str, str, str]]:
    """The options that two modules both have and that differ.

    Args:
        source, target: PyTorch or Flax NNX modules; other objects have no options.
        matches: the source tensors of each target tensor.

    Yields:
        The path of the target's module, the option in the source, and the option in the target.
    """
    theirs, ours = _options(source), _options(target)
    if not theirs or not ours:
        return
    compared = set()
    for match in matches:
        for origin in match.given:
            for option, path, value in _at(match.target, ours):
                for other, their_path, their_value in _at(origin, theirs):
                    if other != option or (path, their_path, option) in compared:
                        continue
                    compared.add((path, their_path, option))
                    if not _agree(value, their_value):
                        yield (
                            path or "the module",
                            f"{option}={_shown(their_value)}, as in the source",
                            f"{option}={_shown(value)}",
                        )


def _options(holder: Any) -> Options:
    """The options of each module in `holder`, by its path."""
    torch, nnx = framework("torch"), framework("flax.nnx")
    modules: Iterable[tuple[str, Any]] = ()
    if torch is not None and isinstance(holder, torch.nn.Module):
        modules = holder.named_modules()
    elif nnx is not None and isinstance(holder, nnx.Module):
        modules = (
            (".".join(map(str, path)), node)
            for path, node in nnx.iter_graph(holder)
            if isinstance(node, nnx.Module)
        )
    return {path: found for path, module in modules if (found := dict(_of(module)))}


def _of(module: Any) -> Iterator[tuple[str, Any]]:
    for attribute, option in ATTRIBUTES.items():
        value = vars(module).get(attribute)
        # `is_causal` is compared only where it is a constructor argument: a class that is always causal was chosen
        # for that.
        said = attribute != "is_causal" or attribute in inspect.signature(type(module).__init__).parameters
        if said and isinstance(value, bool | int | float):
            yield option, value
    if callable(activation := getattr(module, "activation", None)):
        yield "activation", activation
    name = type(module).__name__
    if name in NORM_FIRST and type(module).__module__.startswith(("torch_attention.", "jax_attention.")):
        yield "norm_first", NORM_FIRST[name]


def _at(tensor: str, options: Options) -> Iterator[tuple[str, str, Any]]:
    """Each option, the path of the innermost module around a tensor that has it, and its value."""
    path, seen = tensor, set()
    while path:
        path = path.rpartition(".")[0]
        for option, value in options.get(path, {}).items():
            if option not in seen:
                seen.add(option)
                yield option, path, value


def _agree(first: Any, second: Any) -> bool:
    if callable(first) and callable(second):
        return first is second or bool(np.allclose(_curve(first), _curve(second), rtol=0, atol=1e-5))
    return bool(first == second)


def _curve(activation: Callable[[Any], Any]) -> np.ndarray:
    """The values of an activation function of either framework at some points."""
    torch, jax = framework("torch"), framework("jax")
    if torch is not None:
        try:
            found = activation(torch.from_numpy(PROBE))
        except Exception:  # a JAX function
            found = None
        if isinstance(found, torch.Tensor):
            return np.asarray(found.detach())
    found = activation(jax.numpy.asarray(PROBE))
    return np.asarray(found) if is_jax(found) else np.empty(0)


def _shown(value: Any) -> str:
    return str(getattr(value, "__name__", None) or type(value).__name__) if callable(value) else repr(value)
