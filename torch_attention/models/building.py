"""Parts of a description, built: names become classes of this package, and nothing else does."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from torch import nn

from torch_attention.models.description import Part

# What a description may name besides the modules of the package.
NORMS = ("rms_norm", "layer_norm")
ROUTINGS = ("SigmoidRouting", "SoftmaxRouting")
FREQUENCIES = (
    "linear_frequencies",
    "dynamic_ntk_frequencies",
    "yarn_frequencies",
    "yarn_amplitude",
    "llama3_frequencies",
    "longrope_frequencies",
    "longrope_amplitude",
    "proportional_frequencies",
)


def build(part: Part, known: dict[str, Any], factory: dict[str, Any]) -> Any:
    """What a part describes.

    Args:
        part: the description.
        known: arguments that follow from where it stands; those of the part go before them.
        factory: where and in what precision parameters are made, there and in the parts within.

    Raises:
        ValueError: no such class, or an argument that it does not take.
    """
    make = _parts().get(part.name)
    if make is None:
        raise ValueError(f"a part must be a class of this package, or one of its norms, got {part.name!r}")
    signature = inspect.signature(make.__init__ if inspect.isclass(make) else make)
    accepted = set(signature.parameters) - {"self"}
    if unknown := [name for name in part.arguments if name not in accepted]:
        raise ValueError(f"{part.name} takes no argument {unknown[0]!r}")
    arguments = {
        name: build(x, {}, factory) if isinstance(x, Part) else x for name, x in part.arguments.items()
    }
    implied = {name: x for name, x in (known | factory).items() if name in accepted}
    try:
        signature.bind(*[None] * inspect.isclass(make), **implied | arguments)
    except TypeError as error:
        raise ValueError(f"{part.name}: {error}") from error
    return make(**implied | arguments)


@cache
def _parts() -> dict[str, Callable[..., Any]]:
    """All that a description may name."""
    import torch_attention
    from torch_attention import feed_forward, layers
    from torch_attention.models import experts, routing

    found: dict[str, Callable[..., Any]] = {
        name: thing
        for module in (torch_attention, feed_forward, experts)
        for name, thing in vars(module).items()
        if inspect.isclass(thing) and issubclass(thing, nn.Module) and not name.startswith("_")
    }
    found |= {name: getattr(layers, name) for name in NORMS}
    found |= {name: getattr(routing, name) for name in ROUTINGS}
    return found | {name: getattr(torch_attention, name) for name in FREQUENCIES}
