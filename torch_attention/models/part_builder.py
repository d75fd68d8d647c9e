"""Build the parts of a model description, which may name only classes and functions of this package."""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import torch_attention.models.alternating_updates as alternating_updates
import torch_attention.models.dense_and_experts as dense_and_experts
import torch_attention.models.experts as experts
import torch_attention.models.laurel as laurel
import torch_attention.models.parallel_mixers as parallel_mixers
import torch_attention.models.plain_experts as plain_experts
import torch_attention.models.residual_streams as residual_streams
import torch_attention.models.routing as routing
import torch_attention.models.sparse_feed_forward as sparse_feed_forward
import torch_attention.models.token_inputs as token_inputs
import torch_attention.models.xielu as xielu
from torch_attention import feed_forward, head_norms, layer_scale, norms, positions, vision
from torch_attention.models.description import Part
from torch_attention.models.module_classes import call_arguments, is_module_class
from torch_attention.models.roles import (
    FILLED_IN,
    HEADS,
    MECHANISMS,
    OF_MODELS,
    OF_MODULES,
    OF_NUMBERS,
    ON_GRIDS,
    SHARED_POSITION,
    Role,
    is_defined_in,
)
from torch_attention.models.tasks import pooling
from torch_attention.ranges import refuse

# Modules whose classes a description may name.
ROOMS = (
    *MECHANISMS,
    *HEADS,
    alternating_updates,
    dense_and_experts,
    experts,
    feed_forward,
    laurel,
    parallel_mixers,
    plain_experts,
    pooling,
    residual_streams,
    routing,
    sparse_feed_forward,
    token_inputs,
    vision,
    xielu,
)

# Functions that a description may name.
NORMS: dict[str, Callable[..., Any]] = {
    "rms_norm": norms.rms_norm,
    "layer_norm": norms.layer_norm,
    "head_layer_norm": head_norms.head_layer_norm,
    "layer_scale": layer_scale.layer_scale,
}
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

# Arguments for the device, dtype and random numbers of parameters, in either mirror.
FACTORY = ("device", "dtype", "param_dtype", "rngs")


def build(part: Part, known: dict[str, Any], factory: dict[str, Any]) -> Any:
    """Build a part of a model: a mixer, feed-forward network, norm or head.

    Args:
        part: description of the part.
        known: arguments that the model supplies, such as `embed_dim`, to this part and to nested parts that take them;
            the part's own arguments override them. Their names determine the role of the part.
        factory: arguments of `Factory`, for this part and nested parts.

    Raises:
        TypeError: an argument that must be a part is something else.
        ValueError: the class is unknown, does not fit its role, or does not take an argument.
    """
    name = FILLED_IN.get(frozenset(known), "")
    return _build(name, OF_MODELS.get(name), part, known, factory)


def build_on_grid(role: str, part: Part, known: dict[str, Any], factory: dict[str, Any]) -> Any:
    """Build a part of a stage, which works on grids.

    Args:
        role: role of the part: `"embedding"`, `"mixer"` or `"ffn"`.
        part: description of the part.
        known: arguments that the model supplies, such as `embed_dim`.
        factory: arguments of `Factory`.

    Raises:
        TypeError, ValueError: as in `build`.
    """
    return _build(role, ON_GRIDS[role], part, known, factory)


def build_mixer(part: Part | None, embed_dim: int, factory: dict[str, Any], *, is_causal: bool) -> Any:
    """Build the token mixer of a layer; None without one.

    Args:
        part: description of the mixer.
        embed_dim: number of features per position.
        factory: arguments of `Factory`.
        is_causal: whether the mixer must be causal.

    Raises:
        ValueError: the part is no token mixer, or is not causal although `is_causal` is True.
    """
    if part is None:
        return None
    mixer = build(part, {"embed_dim": embed_dim, "is_causal": is_causal}, factory)
    if is_causal and not getattr(mixer, "is_causal", bool({"cache", "state"} & call_arguments(mixer))):
        raise ValueError(
            f"the mixer of a language model must see no later token, got {part.name}, which sees them all"
        )
    return mixer


def build_streams(part: Part | None, embed_dim: int, factory: dict[str, Any]) -> Any:
    """Build the parts of a model's residual stream; None for a stream of one part.

    Args:
        part: description of the parts.
        embed_dim: number of features per position.
        factory: arguments of `Factory`.

    Raises:
        TypeError, ValueError: as in `build`.
    """
    if part is None:
        return None
    return _build("streams", OF_MODELS["streams"], part, {"embed_dim": embed_dim}, factory)


def build_laurel(part: Part, embed_dim: int, factory: dict[str, Any]) -> Any:
    """Build the learned augmented residual of a layer.

    Args:
        part: description of the residual.
        embed_dim: number of features per position.
        factory: arguments of `Factory`.

    Raises:
        TypeError, ValueError: as in `build`.
    """
    return _build("laurel", OF_MODELS["laurel"], part, {"embed_dim": embed_dim}, factory)


def build_position(part: Part, embed_dim: int, factory: dict[str, Any]) -> Any:
    """Build the positional encoding that the layers of a model share.

    Args:
        part: description of the positional encoding.
        embed_dim: number of features per position.
        factory: arguments of `Factory`.

    Raises:
        TypeError, ValueError: as in `build`.
    """
    return _build("position", SHARED_POSITION, part, {"embed_dim": embed_dim}, factory)


def build_embedding_position(part: Part, embed_dim: int, factory: dict[str, Any]) -> Any:
    """Build the positional embedding that a model adds to its token embeddings.

    Args:
        part: description of the positional embedding.
        embed_dim: number of features per position.
        factory: arguments of `Factory`.

    Raises:
        TypeError, ValueError: as in `build`.
    """
    return _build(
        "embedding_position", OF_MODULES["embedding_position"], part, {"embed_dim": embed_dim}, factory
    )


def build_pooling(part: Part, embed_dim: int, factory: dict[str, Any]) -> Any:
    """Build the pooling of a model.

    Args:
        part: description of the pooling.
        embed_dim: number of features per position.
        factory: arguments of `Factory`.

    Raises:
        TypeError, ValueError: as in `build`.
    """
    return _build("pooling", OF_MODULES["pooling"], part, {"embed_dim": embed_dim}, factory)


def _build(name: str, role: Role | None, part: Part, known: dict[str, Any], factory: dict[str, Any]) -> Any:
    """Build the part given as argument `name`, if it fits its role."""
    make = _parts().get(part.name)
    if make is None:
        raise ValueError(f"a part must be a class of this package, or one of its norms, got {part.name!r}")
    if role is not None and not role.fits(make):
        raise ValueError(f"{name} must be {role.expected}, got {part.name}")
    if owned := [each for each in part.arguments if each in FACTORY]:
        raise ValueError(f"{owned[0]} must be given to the model, not to a part of it, got it in {part.name}")
    accepted, required = _arguments(make)
    if unknown := [each for each in part.arguments if each not in accepted]:
        raise ValueError(f"{part.name} takes no argument {unknown[0]!r}")
    given = {each: _argument(part, each, x, known, factory) for each, x in part.arguments.items()}
    given = {each: x for each, x in (known | factory).items() if each in accepted} | given
    for each in required:
        if each not in given:
            raise ValueError(f"{part.name}: missing a required argument: {each!r}")
        if given[each] is None and each in known and each not in part.arguments:
            raise ValueError(
                f"{part.name} needs {each} of a backbone that reads tokens, got a backbone that reads none"
            )
    return make(**given)


def _argument(part: Part, name: str, x: Any, known: dict[str, Any], factory: dict[str, Any]) -> Any:
    """Return an argument of a part; build it first if it is itself a part."""
    role = OF_MODULES.get(name) or OF_NUMBERS.get(name)
    if isinstance(x, Part):
        if role is None:
            raise ValueError(f"{name} of {part.name} takes no part, got {x.name}")
        return _build(name, role, x, known, factory)
    if name in OF_MODULES and x is not None:
        refuse(name, OF_MODULES[name].expected, x)
    return x


@cache
def _arguments(make: Callable[..., Any]) -> tuple[frozenset[str], tuple[str, ...]]:
    """Names of all arguments of a class or function, and of its required arguments."""
    parameters = inspect.signature(make.__init__ if inspect.isclass(make) else make).parameters.values()
    named = [x for x in parameters if x.name != "self" and x.kind not in (x.VAR_POSITIONAL, x.VAR_KEYWORD)]
    return frozenset(x.name for x in named), tuple(x.name for x in named if x.default is x.empty)


@cache
def _parts() -> dict[str, Callable[..., Any]]:
    """All classes and functions that a description may name."""
    found: dict[str, Callable[..., Any]] = {
        name: thing
        for room in ROOMS
        for name, thing in vars(room).items()
        if inspect.isclass(thing) and is_defined_in(room, thing)
        if (is_module_class(thing) and not name.endswith("Frame")) or room is routing
    }
    return found | NORMS | {name: getattr(positions, name) for name in FREQUENCIES}
