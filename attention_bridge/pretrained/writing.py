"""Writing of a model's directory: its tensors under the names of a checkpoint, and the files beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from attention_bridge.checkpoints import safetensors_shards
from attention_bridge.checkpoints.atomic import replacing_all
from attention_bridge.checkpoints.form import Form
from attention_bridge.pretrained.families import Reading
from attention_bridge.pretrained.origin import Origin
from attention_bridge.weights import stream
from attention_bridge.weights.containers import Container
from attention_bridge.weights.layout import entry_for
from attention_bridge.weights.leaves import Spec, spec, to_numpy

# Names under which loaders look for weights, the first ones first.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
METADATA = {"format": "pt"}


@dataclass(frozen=True)
class Tensors:
    """The tensors of a checkpoint to write.

    Attributes:
        specs: shape and dtype of each, by its name in the file.
        items: function that yields the name and array of each, in any order.
        as_stored: whether they have the dtypes of the checkpoint that the model was loaded from.
    """

    specs: dict[str, Spec]
    items: Callable[[], Iterator[tuple[str, np.ndarray]]]
    as_stored: bool = True


def written(container: Container, reading: Reading, origin: Origin | None) -> Tensors:
    """The tensors of a model under the names of a checkpoint.

    Args:
        container: the model's tensors.
        reading: layout to write, with sizes of axes.
        origin: the checkpoint whose names, dtypes and further tensors are written; None for none.
    """
    leaves, layout = container.leaves, reading.layout
    given = {name: spec(name, leaf) for name, leaf in leaves.items()}

    def read(name: str) -> np.ndarray:
        return to_numpy(name, leaves[name])

    planned = stream(given, read, container.layout, layout, axes=reading.axes)
    if origin is None:
        return Tensors(planned.specs, planned.items)
    names = {name: origin.names.get(name, name) for name in planned.specs}
    unchanged = origin.as_stored and {each.dtype.name for each in given.values()} == {origin.dtype}
    specs = {
        names[name]: origin.specs.get(names[name], found) if unchanged else found
        for name, found in planned.specs.items()
    }
    specs |= {name: origin.specs[name] for name in (*origin.kept, *origin.constants)}
    specs |= {name: specs[other] for name, other in origin.repeated.items()}

    def items() -> Iterator[tuple[str, np.ndarray]]:
        copies = set(origin.repeated.values())
        held: dict[str, np.ndarray] = {}
        for name, array in planned.items():
            found = names[name]
            whole = np.asarray(array, specs[found].dtype)
            if found in copies:
                held[found] = whole
            yield found, whole
        yield from origin.kept.items()
        for name in origin.constants:
            constant = entry_for(layout.canonical(name), layout.constants)
            shape, dtype = origin.specs[name]
            assert constant is not None
            yield name, np.asarray(constant.value(shape)).astype(dtype)
        for name, other in origin.repeated.items():
            yield name, held[other] if other in held else origin.kept[other]

    return Tensors(specs, items, unchanged)


def write_directory(
    directory: Path,
    tensors: Tensors,
    files: Mapping[str, bytes],
    form: Form | None,
    max_shard_bytes: int | None,
) -> None:
    """Write a checkpoint and the files beside it; an existing one is replaced when the new one is complete.

    Args:
        directory: directory to write to.
        tensors: the tensors.
        files: content of the other files, by their path in the directory.
        form: files and shards of the checkpoint; None for a single safetensors file.
        max_shard_bytes: largest size of the tensors in a file; None for the form's shards.
    """
    form = _form(tensors.specs, form, max_shard_bytes)
    for name in files:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
    index = [] if form.index_name is None else [form.index_name]
    paths = [directory / name for name in (*form.files, *index, *files)]
    with replacing_all(paths) as temporaries:
        form.write({name: temporaries[directory / name] for name in form.files}, tensors.items())
        if form.index_name is not None:
            temporaries[directory / form.index_name].write_bytes(form.index)
        for name, content in files.items():
            temporaries[directory / name].write_bytes(content)
    _remove_others(directory, {*form.files, *index})


def write_files(directory: Path, files: Mapping[str, bytes]) -> None:
    """Write files by their path in a directory, all or none."""
    for name in files:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
    with replacing_all([directory / name for name in files]) as temporaries:
        for name, content in files.items():
            temporaries[directory / name].write_bytes(content)


def _form(specs: Mapping[str, Spec], form: Form | None, max_shard_bytes: int | None) -> Form:
    """The given form if it has these tensors; else one of safetensors files, with an index if there are several."""
    if form is not None and max_shard_bytes is None:
        return form.with_specs(specs)
    return Form.of_safetensors(specs, METADATA, max_shard_bytes)


def _remove_others(directory: Path, names: set[str]) -> None:
    """Remove older weights that a loader would read instead of the new ones."""
    for weights in WEIGHTS:
        index = directory / f"{weights}.index.json"
        if index.name not in names:
            safetensors_shards.remove_index(directory / weights)
        if weights not in names:
            with suppress(OSError):  # the new checkpoint is complete without this
                (directory / weights).unlink(missing_ok=True)
