"""Conversion of a checkpoint on disk: planned from shapes, streamed, written atomically.

convert_checkpoint("gpt2", "gpt2-jax.msgpack", source="hf.gpt2", target="jax_attention")
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.checkpoints.atomic import ending_by_signal
from attention_bridge.checkpoints.faults import writing
from attention_bridge.checkpoints.quantised import quantised_without_config
from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained.companions import config_for, config_text, files_beside
from attention_bridge.pretrained.config_files import CONFIGS
from attention_bridge.pretrained.keras import files as keras_files
from attention_bridge.pretrained.source import Source
from attention_bridge.pretrained.writing import write_files
from attention_bridge.weights import Report, stream
from attention_bridge.weights.engine import find_layout
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import Spec

Items = Iterable[tuple[str, np.ndarray]]
SIZE = re.compile("[1-9][0-9]{0,18}")


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion, or of a dry run.

    Attributes:
        source, target: the files.
        format: file format of the target.
        report: the conversion of each tensor.
        specs: shape and dtype of each tensor of the target, by name.
        unknown: source tensors that were converted although no module of the mirrors has them.
        carried: tensors of a Keras source outside attention layers, copied unchanged.
        places: paths of the attention layers in a Keras target.
        causal: attention layers of a Keras source that its model calls with a causal mask, which no tensor shows.
        described: whether the configuration of a Keras source was available, so that layer options without tensors
            were checked.
        not_finite: tensors with NaN or infinite values, which are converted unchanged.
        beside: files written beside the weights into a target directory, such as `config.json`.
    """

    source: Path
    target: Path
    format: str
    report: Report
    specs: dict[str, Spec]
    unknown: tuple[str, ...]
    not_finite: tuple[str, ...]
    carried: tuple[str, ...] = ()
    places: tuple[str, ...] = ()
    described: bool = True
    causal: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()


def convert_checkpoint(
    source_path: str | os.PathLike[str] | Source,
    target_path: str | os.PathLike[str],
    source: Layout | str,
    target: Layout | str,
    *,
    axes: Mapping[str, int] | None = None,
    config: Mapping[str, Any] | None = None,
    dry_run: bool = False,
    force: bool = False,
    allow_unknown: bool = False,
    places: Mapping[str, str] | None = None,
    watch: Callable[[Items, int], Items] = lambda items, count: items,
) -> Conversion:
    """Convert a checkpoint. An existing target is replaced only when the new one is complete.

    Args:
        source_path: a file, the index of a sharded checkpoint, or a directory with either; or an opened
            source, which stays open.
        target_path: a file, whose suffix gives the format; or a directory, for a file `model.safetensors` in it.
        source: layout of the source, or its name.
        target: layout of the target, or its name.
        axes: sizes of axes that the shapes do not give; None for none.
        config: the model's configuration; None to use the one of an opened source, or the file
            beside the source, if its family is known.
        dry_run: whether to plan only.
        force: whether to overwrite an existing target. A symbolic link is replaced itself, as by `mv`; the file that
            it points to stays unchanged.
        allow_unknown: whether tensors that no module of the mirrors has are converted from a mirror's layout.
        places: path in the Keras model for each module path, for a Keras target. The module path "" means a module
            without a path, and the Keras path `.` means a layer that is loaded by itself. By default a path is kept,
            and a module without one becomes the first attention layer of its class in a Functional or Sequential model.
        watch: function of the tensors and their number that yields the tensors again, such as a progress bar.

    Returns:
        The result of the conversion, planned or done.

    Raises:
        CheckpointError: a file cannot be read or written, or the configuration is not supported.
        ConversionError: the tensors do not fit; lists all faults, and nothing is written.
        InputError: source and target are the same file, the target exists and `force` is not set, or there is no
            layout of that name.
    """
    if not os.fspath(target_path):
        raise InputError("target must be the path of a file or directory, got an empty text")
    check_layouts(source, target)
    found = source_path.found if isinstance(source_path, Source) else checkpoints.find(source_path)
    with writing(Path(target_path)):  # even the check for existence may fail
        goal = _goal(Path(target_path))
        there = os.path.lexists(goal)  # also true for a broken symbolic link
        if there and os.path.realpath(goal) == os.path.realpath(found.path):
            raise InputError(f"source and target must be two files, but both are {goal}")
    format = _format(goal)
    if there and not (force or dry_run):
        raise InputError(f"{goal} exists and was left as it is; --force overwrites it")
    not_finite: list[str] = []
    _check_axes(axes or {}, source, target)
    with _opened(source_path, config) as opened:
        reader = opened.reader
        if not reader.specs:
            raise CheckpointError(f"{found.path} holds no tensors")
        if (sign := quantised_without_config(reader.specs)) is not None:
            raise CheckpointError(f"{found.path} cannot be converted: {sign}")

        def read(name: str) -> np.ndarray:
            array = reader.read(name)
            if not is_finite(array):
                not_finite.append(name)
            return array

        given = keras_files.open_source(reader, source)
        sizes = axes_beside(given, axes or {})
        planned = stream(
            reader.specs, read, source, target, axes=sizes, config=opened.reading, allow_unknown=allow_unknown
        )
        names, layers = {name: name for name in planned.specs}, tuple[str, ...]()
        if format == "keras":
            names, layers = keras_files.place(
                goal, planned.specs, target, {**given.standing, **(places or {})}
            )
        elif places:
            raise InputError(f"--place is for files that Keras loads, .weights.h5, but {goal} is none")
        specs = {names[name]: spec for name, spec in planned.specs.items()}
        files = _beside(opened, find_layout(target).name) if goal != Path(target_path) else {}
        if not force and (standing := next((x for x in files if (goal.parent / x).exists()), None)):
            raise InputError(f"{goal.parent / standing} exists and was left as it is; --force overwrites it")
        if not dry_run:
            with ending_by_signal(), _directory(goal.parent, Path(target_path)):
                items = ((names[name], array) for name, array in planned.items())
                metadata = _metadata(format, find_layout(target).name)
                if metadata is not None:
                    metadata |= given.metadata
                checkpoints.save(goal, watch(items, len(specs)), specs, metadata)
                write_files(goal.parent, files)
    noted = tuple(dict.fromkeys(not_finite))
    return Conversion(
        found.path,
        goal,
        format,
        planned.report,
        specs,
        planned.unknown,
        noted,
        given.carried,
        layers,
        given.described,
        given.causal,
        tuple(files),
    )


def _beside(opened: Source, target: str) -> dict[str, bytes]:
    """The files to write beside the weights: those beside the source, with a configuration for the target's layout."""
    if opened.reading is None or (fields := config_for(opened.reading, opened.fields, target)) is None:
        return {}
    directory = opened.path if opened.path.is_dir() else opened.path.parent
    return {CONFIGS[0]: config_text(fields), **files_beside(directory)}


def _opened(
    source: str | os.PathLike[str] | Source, config: Mapping[str, Any] | None
) -> AbstractContextManager[Source]:
    """Open a source to convert; an opened one stays open, and has its configuration."""
    if not isinstance(source, Source):
        return Source.open(source, config)
    if config is not None:
        raise InputError("config must be given to Source.open, not beside an opened source")
    return nullcontext(source)


def _check_axes(axes: Mapping[str, int], *layouts: Layout | str) -> None:
    """Raise InputError for the size of an axis that the layouts do not need."""
    known = sorted({axis for name in layouts for axis in find_layout(name).needed_axes()})
    for name in axes:
        if name.rpartition(".")[2] not in known:
            raise InputError(
                f"--axis must be of {', '.join(known) or 'no axis'}, whose sizes the layouts "
                f"{' and '.join(find_layout(each).name for each in layouts)} "
                f"need, got {name}"
            )


def axes_beside(given: keras_files.KerasSource, axes: Mapping[str, int]) -> dict[str, int]:
    """The sizes of axes: those asked for, and the stored ones of other axes."""
    stored = {name: size for name, size in given.axes.items() if name.rpartition(".")[2] not in axes}
    return {**stored, **axes}


def is_finite(array: np.ndarray, block: int = 2**20) -> bool:
    """Whether all values of an array are finite, checked block by block."""
    if array.dtype.kind in "biu":
        return True
    flat = array.reshape(-1)
    parts = (flat[start : start + block] for start in range(0, flat.size, block))
    return all(
        bool(np.isfinite(part if part.dtype.kind in "fc" else part.astype(np.float32)).all())
        for part in parts
    )


def check_layouts(*names: Layout | str) -> None:
    """Raise InputError for a name that no layout has."""
    for name in names:
        find_layout(name)


def read_axes(given: Iterable[str]) -> dict[str, int]:
    """Parse sizes of axes from texts such as "d=64".

    Raises:
        InputError: a text is malformed, or an axis is given twice.
    """
    axes: dict[str, int] = {}
    for text in given:
        name, equals, size = text.partition("=")
        if not (equals and _is_axis(name) and SIZE.fullmatch(size)):
            raise InputError(f"--axis must be a name and a size, such as d=64, got {text!r:.100}")
        if name in axes:
            raise InputError(f"--axis must give each axis once, got {name} twice: {axes[name]} and {size}")
        axes[name] = int(size)
    return axes


def _is_axis(name: str) -> bool:
    """Whether a text is the name of an axis, with or without a module path before it."""
    path, dot, axis = name.rpartition(".")
    return axis.isidentifier() and (not dot or all(path.split(".")))


def read_places(given: Iterable[str]) -> dict[str, str]:
    """Parse paths in a Keras model from texts such as "encoder.attention=layers/multi_head_attention".

    Raises:
        InputError: a text is malformed.
    """
    places = {}
    for text in given:
        path, equals, place = text.partition("=")
        if not (equals and (place == "." or all(x.isidentifier() for x in place.strip("/").split("/")))):
            raise InputError(
                "--place must be two paths, such as encoder.attention=layers/multi_head_attention, got "
                f"{text!r}"
            )
        places[path] = place
    return places


def _goal(path: Path) -> Path:
    """The file to write: the path, or `model.safetensors` in it if it is a directory or has no suffix."""
    is_directory = path.is_dir() or not path.suffix
    return path / checkpoints.SINGLE if is_directory else path


def _format(goal: Path) -> str:
    from attention_bridge.checkpoints.format_detection import named

    format = named(goal)
    if format not in checkpoints.FORMATS or format == "gguf":
        raise CheckpointError(
            f"{goal} cannot be written: its name must end in .safetensors, .pt, .pth, .bin, .npz, .msgpack, "
            ".weights.h5 or .h5"
        )
    return format


def _metadata(format: str, layout: str) -> dict[str, str] | None:
    if format not in ("safetensors", "npz"):
        return None
    return {"format": "pt" if layout.startswith(("hf.", "torch")) else "np", "layout": layout}


@contextmanager
def _directory(directory: Path, asked: Path) -> Iterator[None]:
    """Create the target directory if the user named one that does not exist; remove it again after an error."""
    if directory != asked or directory.exists():
        yield
        return
    try:
        directory.mkdir()
    except OSError as error:
        raise CheckpointError(f"{directory} cannot be made: {error.strerror}") from error
    try:
        yield
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
