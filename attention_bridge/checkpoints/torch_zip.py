"""Zip files of `torch.save`: the pickle is read without running code, tensors are read one at a time.

`torch.load` would read all tensors at once or map the file into memory, and a memory map of a truncated file crashes
the process. So PyTorch's own restricted unpickler reads the pickle here, into tensors without values.
"""

from __future__ import annotations

import io
import re
import sys
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from attention_bridge.checkpoints.dtypes import read_at
from attention_bridge.checkpoints.pickle_scan import scan
from attention_bridge.checkpoints.zips import check_sum, open_zip, start_of
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec, spec

DATA = re.compile(r"[^/]+/data/[^/]+")  # the entries that hold tensors' bytes


class _Storage(NamedTuple):
    """A storage of one or more tensors: its entry in the zip file, and its offset and size in bytes."""

    entry: str
    start: int
    nbytes: int
    kept: Any  # the storage on the meta device, kept alive so that its address stays unique


class TorchZip:
    """An opened zip file of `torch.save`.

    Args:
        path: the file.

    Attributes:
        tree: the saved object; its tensors are on the meta device.

    Raises:
        CheckpointError: the file is damaged, was not written by `torch.save`, or requires running code.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checked = False
        self.storages: dict[int, _Storage] = {}
        with open_zip(path) as archive:
            self._check_entries(archive)
            prefix = self._prefix(archive)
            order = f"{prefix}/byteorder"
            named = archive.read(order) if order in archive.namelist() else sys.byteorder.encode()
            if named not in (b"little", b"big"):
                raise CheckpointError(f"{path} is damaged: its byte order is {named[:20]!r}")
            self.swapped = named.decode() != sys.byteorder
            self.tree = self._unpickle(archive, prefix)

    def read(self, name: str, tensor: Any) -> np.ndarray:
        """Read the values of one tensor of the tree; the first call verifies the checksums of all entries.

        Raises:
            CheckpointError: a checksum is wrong, or the file was truncated.
        """
        self._check_sums()
        storage = self.storages[tensor.untyped_storage()._cdata]
        dtype = dtype_of(name, tensor)
        if tensor.numel() == 0:
            return np.empty(tuple(tensor.shape), dtype)
        start = storage.start + tensor.storage_offset() * dtype.itemsize
        flat = read_at(self.path, start, Spec((_span(tensor),), dtype))
        if self.swapped:
            flat = flat.byteswap()
        strides = [step * dtype.itemsize for step in tensor.stride()]
        array: np.ndarray = np.ndarray(
            tuple(tensor.shape), dtype, buffer=flat.view(np.uint8), strides=strides
        )
        array = np.conj(array) if tensor.is_conj() else array
        array = np.negative(array) if tensor.is_neg() else array
        again = any(step == 0 and size > 1 for step, size in zip(strides, tensor.shape, strict=True))
        return np.array(array) if again or flat.size < array.size else array  # elements must not share memory

    def _check_sums(self) -> None:
        if self.checked:
            return
        with open_zip(self.path) as archive:
            for entry in archive.infolist():
                check_sum(self.path, archive, entry)
        self.checked = True

    def _check_entries(self, archive: zipfile.ZipFile) -> None:
        for entry in archive.infolist():
            if entry.compress_type:
                raise CheckpointError(
                    f"{self.path} is no file of torch.save: {entry.filename} is compressed, which torch does not do"
                )
            if not DATA.fullmatch(entry.filename):
                check_sum(self.path, archive, entry)

    def _prefix(self, archive: zipfile.ZipFile) -> str:
        """The directory inside the zip file that holds all entries."""
        names = archive.namelist()
        if not names:
            raise CheckpointError(f"{self.path} is no file of torch.save: it is an empty zip file")
        prefixes = {name.partition("/")[0] for name in names}
        if len(prefixes) != 1:
            raise CheckpointError(
                f"{self.path} is no file of torch.save: its entries are not in one directory"
            )
        [prefix] = prefixes
        if f"{prefix}/constants.pkl" in names:
            raise CheckpointError(
                f"{self.path} is refused: it is a TorchScript archive, and reading it would run code"
            )
        if f"{prefix}/data.pkl" not in names:
            raise CheckpointError(f"{self.path} is no file of torch.save: it has no data.pkl")
        return prefix

    def _unpickle(self, archive: zipfile.ZipFile, prefix: str) -> Any:
        import torch
        from torch._weights_only_unpickler import Unpickler

        entries = {entry.filename: entry for entry in archive.infolist()}
        known: dict[str, Any] = {}

        def storage_of(saved: tuple[Any, ...]) -> Any:
            _, kind, key, _, count = saved
            name = f"{prefix}/data/{key}"
            if name not in entries:
                raise CheckpointError(f"{self.path} is damaged: it has no entry {name}")
            dtype = torch.uint8 if kind is torch.UntypedStorage else kind.dtype
            nbytes = count * dtype.itemsize
            if type(count) is not int or nbytes != entries[name].file_size:
                raise CheckpointError(
                    f"{self.path} is damaged: {name} has {entries[name].file_size} bytes, and its pickle says {nbytes}"
                )
            if name not in known:
                untyped = torch.UntypedStorage(nbytes, device="meta")
                start = start_of(self.path, entries[name])
                self.storages[untyped._cdata] = _Storage(name, start, nbytes, untyped)
                known[name] = untyped
            return torch.storage.TypedStorage(wrap_storage=known[name], dtype=dtype, _internal=True)

        pickled = archive.read(f"{prefix}/data.pkl")
        scan(io.BytesIO(pickled))
        unpickler = Unpickler(io.BytesIO(pickled), encoding="utf-8")
        unpickler.persistent_load = storage_of  # type: ignore[method-assign]
        try:
            return unpickler.load()
        finally:
            torch._utils._validate_loaded_sparse_tensors()

    def check(self, name: str, tensor: Any) -> None:
        """Check that a tensor lies within its storage: PyTorch would extend the storage with undefined values.

        Raises:
            CheckpointError: the tensor exceeds its storage or has none in the file.
        """
        storage = self.storages.get(tensor.untyped_storage()._cdata)
        if storage is None:
            raise CheckpointError(
                f"{self.path} cannot be read: {name} is on the meta device, which holds no values"
            )
        end = (tensor.storage_offset() + _span(tensor)) * tensor.element_size()
        if _span(tensor) and end > storage.nbytes:
            raise CheckpointError(
                f"{self.path} is damaged: {name} ends at {end} in {storage.entry}, which has {storage.nbytes} bytes"
            )


def dtype_of(name: str, tensor: Any) -> np.dtype[Any]:
    """The numpy dtype of a tensor on any device.

    Raises:
        TypeError: numpy has no such dtype.
    """
    return spec(name, tensor.new_empty(0, device="cpu")).dtype


def _span(tensor: Any) -> int:
    """Number of storage elements from a tensor's first to its last; strides may skip some."""
    if tensor.numel() == 0:
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.stride(), strict=True))
