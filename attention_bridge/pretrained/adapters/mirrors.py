"""The modules of a model of either mirror, without an import of the other framework."""

from __future__ import annotations

from typing import Any


def mirror_of(model: Any) -> str:
    """The name of the package that a model's class belongs to."""
    return "torch_attention" if type(model).__module__.startswith("torch_attention") else "jax_attention"


def layer_classes(package: str) -> tuple[type, type]:
    """The classes of the mirror's linear layers and embeddings."""
    if package == "torch_attention":
        from torch import nn

        return nn.Linear, nn.Embedding
    from flax import nnx

    return nnx.Linear, nnx.Embed


def weight_shape(layer: Any) -> tuple[int, int]:
    """The shape of a layer's weight in PyTorch: (out, in), or (tokens, features) of an embedding."""
    if hasattr(layer, "num_embeddings"):
        return layer.num_embeddings, getattr(layer, "features", None) or layer.embedding_dim
    return layer.out_features, layer.in_features


def modules_of(model: Any) -> dict[str, Any]:
    """The modules of a model by path."""
    if mirror_of(model) == "torch_attention":
        return dict(model.named_modules())
    from flax import nnx

    return {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
