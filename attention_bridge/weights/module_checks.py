"""Modules that cannot be converted by their tensors alone, because options outside the tensors change the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attention_bridge.weights.leaves import framework

ZERO_KEY = "add_zero_attn=True gives every query a key of zeros, which no class of the mirrors does"
TRANSPOSED = "a transposed convolution stores its kernel in another order in each framework"
OTHER_AXES = "its kernel has an axis order of its own, which no tensor shows"
CONV1D = (
    "Conv1D of transformers stores its weight as (in, out), so take source_layout='hf.gpt2' and its model"
)


def keras_refusal(options: Mapping[str, Any]) -> str | None:
    """Why the options of a Keras attention layer prevent its conversion, or None if they do not.

    Args:
        options: options of the layer, by their names in its `get_config()`.
    """
    window, axes, shape = (options.get(name) for name in ("sliding_window", "attention_axes", "output_shape"))
    if window is not None:
        return (
            f"sliding_window={window!r}, which no tensor shows: give it to the layer of the mirrors, by hand"
        )
    if axes not in (None, 1) and (not isinstance(axes, list | tuple) or list(axes) != [1]):
        return f"attention_axes={axes!r}, but the mirrors attend over one axis, the first behind the batch"
    if isinstance(shape, list | tuple) and len(shape) > 1:
        return f"output_shape={tuple(shape)!r}, but an output of several axes has no place in the mirrors"
    return None


def refusals(holder: Any, layout: str, other: str) -> Iterator[tuple[str, str]]:
    """The names of modules in `holder` that cannot be converted by their tensors alone, each with the reason.

    Args:
        holder: module of either framework; any other object yields nothing.
        layout: name of the layout of its tensors.
        other: name of the layout at the other end of the conversion.
    """
    by_type = layout in ("torch_attention", "jax_attention", "linen")
    torch, nnx, keras = framework("torch"), framework("flax.nnx"), framework("keras")
    if keras is not None and isinstance(holder, keras.layers.Layer):
        yield from _keras_refusals(keras, holder)
        return
    if torch is not None and isinstance(holder, torch.nn.Module):
        for name, module in holder.named_modules():
            if isinstance(module, torch.nn.MultiheadAttention) and module.add_zero_attn:
                yield name or "the module", ZERO_KEY
            elif by_type and isinstance(module, torch.nn.modules.conv._ConvTransposeNd):
                yield name or "the module", TRANSPOSED
            elif by_type and is_conv1d(module):
                yield name or "the module", CONV1D
    elif nnx is not None and isinstance(holder, nnx.Module):
        modules = dict(nnx.iter_graph(holder))
        for path, module in modules.items():
            name = ".".join(map(str, path)) or "the module"
            if by_type and isinstance(module, nnx.ConvTranspose):
                yield name, TRANSPOSED
            elif isinstance(modules.get(path[:-1]), nnx.MultiHeadAttention):
                continue  # the layer's names identify its axes
            elif by_type and layout != other and _has_other_axes(nnx, module):
                yield name, OTHER_AXES


def _keras_refusals(keras: Any, holder: Any) -> Iterator[tuple[str, str]]:
    for layer in holder._flatten_layers():
        if isinstance(layer, (keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention)):
            options = {
                name: getattr(layer, f"_{name}", getattr(layer, name, None))
                for name in ("sliding_window", "attention_axes", "output_shape")
            }
            if reason := keras_refusal(options):
                yield layer.path or layer.name, reason


def _has_other_axes(nnx: Any, module: Any) -> bool:
    """Whether the kernel of an NNX layer is neither (in, out) nor a convolution kernel."""
    return isinstance(module, nnx.Einsum) or (
        isinstance(module, nnx.LinearGeneral) and module.kernel.get_value().ndim > 2
    )


def is_conv1d(module: Any) -> bool:
    """Whether a module is the `Conv1D` of transformers, checked without an import."""
    return any(
        (each.__module__, each.__name__) == ("transformers.pytorch_utils", "Conv1D")
        for each in type(module).__mro__
    )
