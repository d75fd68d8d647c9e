"""Fields of hierarchical vision models, with a number for each stage."""

from __future__ import annotations

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.fields import LARGEST, Fields
from attention_bridge.pretrained.families.shown import shown


def stage_sizes(
    fields: Fields, name: str, *, most: int, stages: int | None = None, least: int = 1, largest: int = LARGEST
) -> tuple[int, ...]:
    """A whole number for each stage.

    Args:
        fields: the configuration.
        name: name of the field, a list.
        most: largest number of stages.
        stages: number of stages; further numbers of the list are unused. None for as many as there are numbers.
        least: smallest number.
        largest: largest number.

    Raises:
        CheckpointError: the field is no such list.
    """
    given = fields.raw(name)
    right = isinstance(given, list | tuple) and all(type(x) is int and least <= x <= largest for x in given)
    if not right or not (stages or 1) <= len(given) or (stages is None and len(given) > most):
        kind = "positive whole numbers" if least else "whole numbers of at least 0"
        number = f"{stages}" if stages else f"at most {most}"
        raise CheckpointError(
            f"{fields.source} must have a list {name} of {kind} up to {largest}, one for each stage, {number}, "
            f"got {shown(given)}"
        )
    return tuple(given[: stages or len(given)])


def hidden_size(fields: Fields, name: str, ratio: float, dim: int) -> int:
    """Hidden features of a feed-forward network: the ratio of this name times the features, rounded down."""
    found = int(ratio * dim)
    if not 0 < found <= LARGEST:
        raise CheckpointError(
            f"{fields.source} must have {name} that gives a hidden feature or more, got {shown(ratio)}"
        )
    return found
