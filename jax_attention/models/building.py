"""Build the parts of a model description; only classes of this package can be named."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

from jax_attention import (
    attention_basics,
    cross_attention,
    feed_forward,
    gates,
    heads,
    latents,
    layers,
    linear,
    low_rank,
    patterns,
    positions,
    scores,
    self_attention,
    sparse,
)
from jax_attention.models.description import Part
from jax_attention.models.experts import MixtureOfExperts
from jax_attention.models.kinds import is_module_class
from jax_attention.models.routing import SigmoidRouting, SoftmaxRouting
from jax_attention.models.tasks import (
    EmbeddingHead,
    FirstToken,
    LastToken,
    LearnedPooling,
    MaskedLanguageHead,
    MeanPooling,
    QuestionAnswering,
    RewardHead,
    SequenceClassifier,
    TokenClassifier,
)

# Modules whose classes a description may name.
ROOMS = (
    attention_basics,
    cross_attention,
    feed_forward,
    gates,
    heads,
    latents,
    linear,
    low_rank,
    patterns,
    positions,
    scores,
    self_attention,
    sparse,
)

# Other classes that a description may name.
EXPERTS = (MixtureOfExperts, SigmoidRouting, SoftmaxRouting)
HEADS = (
    EmbeddingHead,
    FirstToken,
    LastToken,
    LearnedPooling,
    MaskedLanguageHead,
    MeanPooling,
    QuestionAnswering,
    RewardHead,
    SequenceClassifier,
    TokenClassifier,
)

# Functions that a description may name.
NORMS = ("rms_norm", "layer_norm")
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
    """Build what a part describes.

    Args:
        part: the description.
        known: arguments that the model fills in, such as `embed_dim`, here and in nested parts that take them; those
            of a part override them.
        factory: arguments of `Factory`, for this part and nested ones.

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
        name: build(x, known, factory) if isinstance(x, Part) else x for name, x in part.arguments.items()
    }
    implied = {name: x for name, x in (known | factory).items() if name in accepted}
    try:
        signature.bind(*[None] * inspect.isclass(make), **implied | arguments)
    except TypeError as error:
        raise ValueError(f"{part.name}: {error}") from error
    return make(**implied | arguments)


@cache
def _parts() -> dict[str, Callable[..., Any]]:
    """Everything that a description may name."""
    found: dict[str, Callable[..., Any]] = {
        name: thing
        for room in ROOMS
        for name, thing in vars(room).items()
        if is_module_class(thing) and not name.endswith("Frame")
    }
    found |= {name: getattr(layers, name) for name in NORMS}
    found |= {each.__name__: each for each in (*EXPERTS, *HEADS)}
    return found | {name: getattr(positions, name) for name in FREQUENCIES}
