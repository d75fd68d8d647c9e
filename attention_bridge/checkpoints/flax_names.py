"""Names and axes of the Flax checkpoints of transformers 4, as PyTorch has them.

| Flax                  | PyTorch                 | axes                                                     |
|-----------------------|-------------------------|----------------------------------------------------------|
| `path.kernel`         | `path.weight`           | reversed; of images (h, w, in, out) to (out, in, h, w)   |
| `path.embedding`      | `path.weight`           | the same                                                 |
| `path.scale`          | `path.weight`           | the same                                                 |
| other names           | the same                | the same                                                 |

GPT-2's kernels are no exception: its Flax class stores them as (out, in), its PyTorch class as (in, out).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from attention_bridge.checkpoints.reader import Reader
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

LEAVES = ("kernel", "embedding", "scale")
HEADER = "params."
IMAGES = (3, 2, 0, 1)  # axes of a kernel with height and width, in PyTorch's order


class _Stored(NamedTuple):
    """A tensor of the file: its name, and the order of its axes in PyTorch; None for the same order."""

    name: str
    axes: tuple[int, ...] | None


def in_pytorch_names(reader: Reader) -> Reader:
    """The tensors of a Flax checkpoint with PyTorch's names and axes; `reader` itself for another checkpoint.

    Raises:
        CheckpointError: two tensors have the same name in PyTorch.
    """
    is_flax = reader.format == "msgpack" or reader.metadata.get("format") == "flax"
    if not is_flax or not any(name.rpartition(".")[2] in LEAVES for name in reader.specs):
        return reader
    stored: dict[str, _Stored] = {}
    for name, spec in reader.specs.items():
        path, _, leaf = name.removeprefix(HEADER).rpartition(".")
        theirs = f"{path}.weight" if path and leaf in LEAVES else name.removeprefix(HEADER)
        if theirs in stored:
            raise CheckpointError(
                f"{reader.path} has {stored[theirs].name} and {name}, which are both {theirs} in PyTorch: remove one"
            )
        rank = len(spec.shape)
        axes = (IMAGES if rank == len(IMAGES) else tuple(reversed(range(rank)))) if leaf == "kernel" else None
        stored[theirs] = _Stored(name, axes)

    def fetch(name: str) -> np.ndarray:
        given, axes = stored[name]
        array = reader.read(given)
        return array if axes is None else np.ascontiguousarray(array.transpose(axes))

    return replace(
        reader,
        specs={name: _spec(reader.specs[given], axes) for name, (given, axes) in stored.items()},
        fetch=fetch,
    )


def _spec(spec: Spec, axes: tuple[int, ...] | None) -> Spec:
    return spec if axes is None else Spec(tuple(spec.shape[axis] for axis in axes), spec.dtype)
