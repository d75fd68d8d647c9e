"""The modules of a model of either mirror, without an import of the other framework."""

from __future__ import annotations

from typing import Any


def mirror_of(model: Any) -> str:
    """The name of the package that a model's class belongs to."""
    return "torch_attention" if type(model).__module__.startswith("torch_attention") else "jax_attention"


def linear_class(package: str) -> type:
    """The class of the mirror's linear layers."""
    if package == "torch_attention":
        from torch import nn

        return nn.Linear
    from flax import nnx

    return nnx.Linear


def modules_of(model: Any) -> dict[str, Any]:
    """The modules of a model by path."""
    if mirror_of(model) == "torch_attention":
        return dict(model.named_modules())
    from flax import nnx

    return {".".join(map(str, path)): module for path, module in nnx.iter_modules(model)}
