"""Checks of names, shapes and dtypes when a checkpoint is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from attention_bridge.checkpoints.dtypes import native
from attention_bridge.checkpoints.faults import one_line
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

Items = Iterable[tuple[str, np.ndarray]]


def promised(path: Path, items: Items, specs: Mapping[str, Spec]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield `items` and check them against `specs`: each tensor once, in any order, and no others.

    Raises:
        CheckpointError: a tensor is unexpected, a duplicate, missing, or of a wrong shape or dtype.
    """
    awaited = dict(specs)
    for name, array in items:
        if name not in awaited:
            why = "was given twice" if name in specs else "is not in specs"
            raise CheckpointError(f"{path} cannot be written: {name} {why}")
        spec, found = awaited.pop(name), Spec(array.shape, native(array.dtype))
        if found != Spec(tuple(spec.shape), native(spec.dtype)):
            raise CheckpointError(f"{path} cannot be written: {name} must be {spec}, but is {found}")
        yield name, array
    if awaited:
        raise CheckpointError(
            f"{path} cannot be written: items lacks {', '.join(awaited)}, which specs lists"
        )


def gathered(path: Path, items: Items, specs: Mapping[str, Spec]) -> dict[str, np.ndarray]:
    """All tensors, in native byte order and C order, for formats that are written at once."""
    return {
        name: np.asarray(array, native(array.dtype), order="C")
        for name, array in promised(path, items, specs)
    }


def no_metadata(path: Path, kind: str, metadata: Mapping[str, str]) -> None:
    """Check that there is no metadata, for formats that cannot store any.

    Raises:
        CheckpointError: there is metadata.
    """
    if metadata:
        raise CheckpointError(
            f"{path} cannot be written: {kind} keeps no metadata, but got {', '.join(metadata)}"
        )


def check_names(path: Path, specs: Mapping[str, Spec]) -> None:
    """Check that all names are text without zero bytes.

    Raises:
        CheckpointError: there is such a name.
    """
    for name in specs:
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise CheckpointError(
                f"{path} cannot be written: {name!a} is no text: {one_line(error)}"
            ) from error
        if "\0" in name:
            raise CheckpointError(f"{path} cannot be written: the name {name!a} has a zero byte")
