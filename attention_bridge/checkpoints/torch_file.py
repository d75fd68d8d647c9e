"""Files of `torch.save`, read without running code from them."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge.checkpoints import index
from attention_bridge.checkpoints.dtypes import ALL, check_writable, supported
from attention_bridge.checkpoints.faults import check_inflation, nbytes, reading, writing
from attention_bridge.checkpoints.nested_trees import flatten
from attention_bridge.checkpoints.pickle_scan import scan
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.torch_zip import TorchZip, dtype_of
from attention_bridge.checkpoints.write_checks import Items, check_names, gathered, no_metadata
from attention_bridge.errors import CheckpointError, require
from attention_bridge.weights.leaves import Spec, is_torch, to_numpy, to_torch

KIND = "file of torch.save"
ZIP = b"PK\x03\x04"
PICKLE = b"\x80"  # of protocol 2 or later
PICKLES = 4  # in a file in the legacy format, before the names of its storages


def open(path: Path) -> Reader:
    """Open a file of `torch.save`. Tensors may be nested; other objects are ignored.

    Tensors are read one at a time. Before the first one, the checksums of all entries are verified. Files from before
    PyTorch 1.6 have no checksums and are read whole.

    Raises:
        CheckpointError: the file is damaged, needs code to be run, or holds no tensors.
        InputError: torch is not installed.
    """
    require(["torch"], extra="torch")
    with reading(path, KIND), _without_code(path):
        with path.open("rb") as file:
            zipped = TorchZip(path) if file.read(len(ZIP)) == ZIP else None
        tensors = flatten(path, zipped.tree if zipped else _load(path), is_torch)
        for name, tensor in tensors.items():
            _check_dense(path, name, tensor)
            if zipped:
                zipped.check(name, tensor)
            elif tensor.is_meta:
                raise CheckpointError(
                    f"{path} cannot be read: {name} is on the meta device, which holds no values"
                )
        specs = {name: _spec(path, name, tensor) for name, tensor in tensors.items()}

    def fetch(name: str) -> np.ndarray:
        return zipped.read(name, tensors[name]) if zipped else to_numpy(name, tensors[name])

    return Reader(path, "torch", specs, {}, fetch, tensors.clear)


def open_shards(path: Path) -> Reader:
    """Open a sharded checkpoint of `torch.save` files by its index.

    Raises:
        CheckpointError: the index or a shard is missing or damaged, or they disagree.
        InputError: torch is not installed.
    """
    require(["torch"], extra="torch")
    return index.open(path, open)


def _load(path: Path) -> Any:
    """Load a whole file in the legacy format: it begins with pickles, the fourth of which is the saved object."""
    import torch

    with path.open("rb") as file:
        if file.read(1) != PICKLE:
            raise CheckpointError(f"{path} is no {KIND}: it begins neither as a zip file nor as a pickle")
        file.seek(0)
        for _ in range(PICKLES):
            scan(file)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles of other versions
        return torch.load(path, map_location="cpu", weights_only=True)


@contextmanager
def _without_code(path: Path) -> Iterator[None]:
    """Convert unpickling errors into a `CheckpointError` that names the code that a pickle requires."""
    try:
        yield
    except pickle.UnpicklingError as error:
        if found := re.search(r"GLOBAL:? `?([\w.]+)", str(error)):
            raise CheckpointError(
                f"{path} is refused: reading it would run the code {found[1]}, and code in files is never run"
            ) from error
        raise CheckpointError(
            f"{path} is damaged or no {KIND}: its pickle is damaged or holds more than tensors"
        ) from error


def _check_dense(path: Path, name: str, tensor: Any) -> None:
    import torch

    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise CheckpointError(
            f"{path} cannot be read: {name} is no dense tensor but {tensor.layout} {tensor.dtype}"
        )


def _spec(path: Path, name: str, tensor: Any) -> Spec:
    try:
        found = Spec(tuple(tensor.shape), dtype_of(name, tensor))
    except TypeError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    check_inflation(path, nbytes(found))  # a small storage can be expanded to a huge tensor
    return Spec(found.shape, supported(path, name, found.dtype))


def write(path: Path, items: Items, specs: Mapping[str, Spec], metadata: Mapping[str, str]) -> None:
    """Write a state dict. `torch.save` writes it at once, so all tensors are held in memory.

    Raises:
        CheckpointError: the tensors differ from `specs`, or the format cannot store them.
        DiskError: the system cannot write.
        InputError: torch is not installed.
    """
    require(["torch"], extra="torch")
    import torch

    check_writable(path, "torch", specs, [dtype for dtype in ALL if hasattr(torch, dtype.name)])
    check_names(path, specs)
    no_metadata(path, "torch.save", metadata)
    tensors = {name: to_torch(array) for name, array in gathered(path, items, specs).items()}
    with (
        writing(path, RuntimeError),
        path.open("wb") as file,
    ):  # given a path, torch.save would store its name in the file
        torch.save(tensors, file)
