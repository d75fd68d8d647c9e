"""The form of a checkpoint: its files, their headers and the order of their tensors, without the values.

Tensors of the same names, shapes and dtypes are written in their form with the same bytes, whichever library wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.checkpoints import index, safetensors_file, safetensors_shards
from attention_bridge.checkpoints.format_detection import Found
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.checkpoints.write_checks import promised
from attention_bridge.weights.leaves import Spec

WRITTEN = ("safetensors", "torch", "msgpack", "npz")  # formats that are written in the form that was read
Items = Iterable[tuple[str, np.ndarray]]


@dataclass(frozen=True)
class FileForm:
    """One file of a checkpoint.

    Attributes:
        specs: shape and dtype of its tensors, in the order of the file.
        header: the first bytes of a safetensors file, up to the first tensor; empty for a new header.
        metadata: text stored with the tensors of a safetensors file with a new header.
    """

    specs: Mapping[str, Spec]
    header: bytes = b""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def with_specs(self, specs: Mapping[str, Spec]) -> FileForm:
        """The file with these tensors; those that it had keep their order."""
        ordered = [name for name in self.specs if name in specs]
        ordered += [name for name in specs if name not in self.specs]
        metadata = json.loads(self.header[8:]).get("__metadata__") if self.header else self.metadata
        return FileForm({name: specs[name] for name in ordered}, b"", metadata or {})


@dataclass(frozen=True)
class Form:
    """The files of a checkpoint.

    Attributes:
        format: name of the format, such as `safetensors`.
        files: each file by its name.
        index_name: name of the index of a sharded checkpoint; None for a single file.
        index: content of the index.
    """

    format: str
    files: Mapping[str, FileForm]
    index_name: str | None = None
    index: bytes = b""

    @classmethod
    def of(cls, found: Found, reader: Reader) -> Form | None:
        """The form of an opened checkpoint; None for a format that is not written in the form that was read."""
        path = found.path
        if reader.format not in WRITTEN or found.format == "msgpack index" or not path.is_file():
            return None
        if not found.format.endswith(" index"):
            return cls(reader.format, {path.name: _file(path, reader.format, reader.specs)})
        places: Mapping[str, str] = json.loads(path.read_bytes())["weight_map"]
        files = {
            shard: _file(
                path.parent / shard,
                reader.format,
                {name: spec for name, spec in reader.specs.items() if places[name] == shard},
            )
            for shard in index.shards_of(path)
        }
        return cls(reader.format, files, path.name, path.read_bytes())

    @classmethod
    def of_safetensors(
        cls, specs: Mapping[str, Spec], metadata: Mapping[str, str], max_shard_bytes: int | None
    ) -> Self:
        """The form of new safetensors files, with an index if there are several.

        Args:
            specs: shape and dtype of each tensor, by name; shards are filled in this order.
            metadata: text to store in every file.
            max_shard_bytes: largest size of the tensors in a file; None for a single file.
        """
        parts = [list(specs)] if max_shard_bytes is None else safetensors_shards.plan(specs, max_shard_bytes)
        names = [checkpoints.SINGLE]
        if len(parts) > 1:
            stem, _, suffix = checkpoints.SINGLE.partition(".")
            names = [f"{stem}-{n + 1:05}-of-{len(parts):05}.{suffix}" for n in range(len(parts))]
        files = {
            name: FileForm({each: specs[each] for each in part}, metadata=metadata)
            for name, part in zip(names, parts, strict=True)
        }
        if len(parts) == 1:
            return cls("safetensors", files)
        return cls("safetensors", files, checkpoints.INDEX, _index(files))

    def with_specs(self, specs: Mapping[str, Spec]) -> Form:
        """The form for these tensors: itself if it has them, else the same files with new headers.

        A tensor that the form does not have goes into the last file.
        """
        own = {name: spec for file in self.files.values() for name, spec in file.specs.items()}
        if dict(specs) == own:
            return self
        *_, last = self.files
        places = {name: file for file, form in self.files.items() for name in form.specs}
        files = {
            file: form.with_specs({name: x for name, x in specs.items() if places.get(name, last) == file})
            for file, form in self.files.items()
        }
        files = {name: file for name, file in files.items() if file.specs}
        return Form(self.format, files, self.index_name, _index(files) if self.index_name else b"")

    def write(self, paths: Mapping[str, Path], items: Items) -> None:
        """Write the files.

        Args:
            paths: path to write for each file.
            items: pairs of name and array, in any order.

        Raises:
            CheckpointError: the tensors differ from the form, or the format cannot store them.
            DiskError: the system cannot write.
        """
        specs = {name: spec for file in self.files.values() for name, spec in file.specs.items()}
        first = next(iter(paths.values()))
        if self.format != "safetensors":
            arrays = dict(promised(first, items, specs))
            for name, file in self.files.items():
                chosen = [(each, arrays[each]) for each in file.specs]
                checkpoints.WRITERS[self.format](paths[name], chosen, file.specs, {})
            return
        with ExitStack() as stack:
            places: dict[str, safetensors_file.Open] = {}
            for name, file in self.files.items():
                opened = stack.enter_context(_opened(paths[name], file))
                places |= dict.fromkeys(file.specs, opened)
            for name, array in promised(first, items, specs):
                places[name].put(name, array)


def _opened(path: Path, file: FileForm) -> safetensors_file.Open:
    """A safetensors file to write, with its header or a new one."""
    if not file.header:
        safetensors_file.check(path, file.specs, file.metadata)
        return safetensors_file.Open(path, *safetensors_file.arranged(path, file.specs, file.metadata))
    entries = json.loads(file.header[8:])
    starts = {name: len(file.header) + entries[name]["data_offsets"][0] for name in file.specs}
    return safetensors_file.Open(path, starts, file.header)


def _file(path: Path, format: str, specs: Mapping[str, Spec]) -> FileForm:
    """The form of a file, whose tensors are in the order in which it stores them."""
    if format != "safetensors":
        return FileForm(dict(specs))
    with path.open("rb") as file:
        start = file.read(8)
        text = file.read(int.from_bytes(start, "little"))
    entries: dict[str, Any] = json.loads(text)
    order = [name for name in entries if name in specs]
    if len(order) != len(specs):  # an adapter has added tensors
        return FileForm(dict(specs), metadata=entries.get("__metadata__") or {})
    return FileForm({name: specs[name] for name in order}, start + text)


def _index(files: Mapping[str, FileForm]) -> bytes:
    """The content of an index."""
    parts = [list(file.specs) for file in files.values()]
    specs = {name: spec for file in files.values() for name, spec in file.specs.items()}
    return (json.dumps(safetensors_shards.index_of(list(files), parts, specs), indent=2) + "\n").encode()
