"""Loading of pretrained models from a directory or from the Hugging Face Hub, into either mirror."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np

from attention_bridge.checkpoints.reader import Reader
from attention_bridge.errors import CheckpointError, ConversionError, InputError, printable, require
from attention_bridge.pretrained.adapters import (
    Adapter,
    apply_adapter,
    base_of,
    is_adapter,
    merged,
    read_adapter,
    replaced,
)
from attention_bridge.pretrained.devices import find_device
from attention_bridge.pretrained.families import Reading
from attention_bridge.pretrained.families.shown import cut
from attention_bridge.pretrained.filling import PACKAGES, check_fit, empty_model, fill
from attention_bridge.pretrained.hub import local_directory
from attention_bridge.pretrained.origin import Origin
from attention_bridge.pretrained.source import Source
from attention_bridge.weights import Stream, stream
from attention_bridge.weights.leaves import Spec

Framework = Literal["torch", "jax"]
# Exceptions that the mirrors' configurations raise for impossible sizes.
_UNBUILT = (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError)
DTYPES = ("float32", "bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2")
HEADED = re.compile(r"(For[A-Z]\w*|LMHeadModel)$")  # names of classes with a head
SHORT_DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
    "double": "float64",
    "f16": "float16",
    "f32": "float32",
    "f64": "float64",
}


@dataclass(frozen=True)
class Pretrained:
    """Configuration and weights of a checkpoint, read without either framework.

    Attributes:
        directory: directory of the checkpoint.
        reading: model class, its configuration, and the checkpoint's layout.
        weights: weights in the canonical layout, by name, all of one dtype.
    """

    directory: Path
    reading: Reading
    weights: dict[str, np.ndarray]


def load_pretrained(
    source: str | os.PathLike[str],
    framework: Framework,
    *,
    dtype: Any = None,
    device: Any = None,
    mesh: Any = None,
    task: str | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
    model_type: str | None = None,
    ignore: Collection[str] = (),
    adapter: str | os.PathLike[str] | None = None,
    merge: bool = True,
) -> Any:
    """Load a pretrained model, in evaluation mode.

    Args:
        source: a file, a directory, or the name of a model on the Hugging Face Hub (`"gpt2"`, needs huggingface_hub),
            also with a revision (`"gpt2@main"`).
        framework: "torch" or "jax".
        dtype: dtype of the model's weights: a name ("float32", "bf16"), or a dtype of numpy, torch or jax; None or
            "auto" keeps the dtype of the checkpoint, or takes float32 or float64 if it has several.
        device: device of the weights, such as "cuda:0" or a device of the framework; None for the default one.
        mesh: mesh whose devices share the weights, of `make_mesh` in the framework's `sharding`; None for one device.
        task: task of the model, named as a pipeline of transformers: "fill-mask", "text-classification",
            "token-classification", "question-answering", "image-classification", "text-generation", or
            "feature-extraction" for no head; None for the head that the checkpoint has.
        revision: branch, tag or commit on the Hugging Face Hub; None for the default branch.
        config: fields that replace or complete the fields of `config.json`; None for none.
        model_type: type of the model, such as "llama"; None for the one in `config.json`, or of its architecture.
        ignore: fields of `config.json` that are not read.
        adapter: directory of a LoRA adapter, as PEFT saves it, or its name on the Hugging Face Hub; None for none. If
            `source` is such a directory itself, the base model that it names is loaded.
        merge: whether the adapter is added to the weights; False for `LoRALinear` layers, ready to be trained.

    Returns:
        A module of `torch_attention.models` or `jax_attention.models`; a `TaskModel` for a checkpoint with a task head.
        It keeps the names and files of the checkpoint, so that `save_pretrained` writes them again.

    Raises:
        CheckpointError: there is no such checkpoint, a file is damaged, or the configuration is not supported.
        ConversionError: the weights do not fit the configuration.
        InputError: `framework` is neither "torch" nor "jax", `dtype` is not a floating-point dtype, `task` is unknown,
            or both a device and a mesh are given.
    """
    if framework not in PACKAGES:
        raise InputError(f"framework must be torch or jax, got {framework!r}")
    require(("torch",) if framework == "torch" else ("jax", "flax"), extra=framework)
    if device is not None and mesh is not None:
        raise InputError("device must be None with a mesh, whose devices share the weights")
    wanted, device = dtype_name(dtype), find_device(framework, device)
    directory, update = _with_adapter(local_directory(source, revision), adapter)
    adapt = (
        None
        if update is None
        else partial(merged if merge else replaced, adapter=update, dtype=_numpy(wanted))
    )
    with _opened(directory, config, model_type, ignore, task, adapt) as opened:
        reading, converted = _converted(directory, opened, PACKAGES[framework])
        name = _common_dtype(converted, wanted)
        model = _filled(directory, reading, converted, framework, name, device, mesh)
        origin = Origin.of(opened, reading, converted.report, name, wanted is None, None if merge else update)
    model.origin = origin
    for message in (origin.warning(), None if task else _without_its_head(origin)):
        if message is not None:
            warnings.warn(message, stacklevel=2)
    if update is None or merge:
        return model
    return apply_adapter(model, update, reading.layout, reading.axes)


def _without_its_head(origin: Origin) -> str | None:
    """One sentence about a checkpoint whose class has a head that its tensors lack; None for any other."""
    names, model = origin.fields.get("architectures"), origin.reading.model
    written = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
    config = model.arguments["config"].arguments
    is_body = model.name == "Encoder" or (model.name == "TaskModel" and config["head"].name == "NoHead")
    if not is_body or not HEADED.search(written) or origin.unused():
        return None
    return f"{origin.path} was written by {written}, but has no tensors of its head, and is loaded without a head"


def _with_adapter(directory: Path, adapter: str | os.PathLike[str] | None) -> tuple[Path, Adapter | None]:
    """The directory of the base model, and the adapter: the one asked for, or the directory itself."""
    if adapter is None and is_adapter(directory):
        return local_directory(base_of(directory), None), read_adapter(directory)
    return directory, None if adapter is None else read_adapter(local_directory(adapter, None))


def _numpy(name: str | None) -> np.dtype[Any] | None:
    """The numpy dtype of a name."""
    return None if name is None else np.dtype(getattr(ml_dtypes, name, name))


def make_model(pretrained: Pretrained, framework: Framework) -> Any:
    """Build the model of a checkpoint that `read_pretrained` has read, in evaluation mode.

    Args:
        pretrained: configuration and weights.
        framework: "torch" or "jax".

    Raises:
        CheckpointError: the configuration describes no model that can be built.
        ConversionError: the weights do not fit the configuration.
    """
    weights = pretrained.weights
    specs = {name: Spec(array.shape, array.dtype) for name, array in weights.items()}
    (dtype,) = {spec.dtype.name for spec in specs.values()}
    converted = stream(specs, weights.__getitem__, "torch_attention", PACKAGES[framework])
    return _filled(pretrained.directory, pretrained.reading, converted, framework, dtype)


def _filled(
    directory: Path,
    reading: Reading,
    converted: Stream,
    framework: Framework,
    dtype: str,
    device: Any = None,
    mesh: Any = None,
) -> Any:
    """Build a model and fill it with converted weights, in evaluation mode."""
    try:
        model = empty_model(reading.model, framework, dtype)
    except _UNBUILT as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            cut(f"The configuration in {directory} describes no model that can be built: {reason}")
        ) from error
    origins = {match.target: ", ".join(match.given) for match in converted.report.matched}
    try:
        check_fit(converted.specs, origins, model, converted.report)
    except ConversionError as error:
        raise _unfit(directory, error) from error
    model = fill(model, framework, converted.items(), dtype, device=device, mesh=mesh)
    model.eval()
    return model


def _unfit(directory: Path, error: ConversionError) -> ConversionError:
    """The error in one line: the number of faults of each kind, and the first one."""
    summary = str(error).partition("\n")[0].rpartition("nothing was written: ")[2]
    first = ""
    if error.faults:
        fault = error.faults[0]
        expected = f", expected {fault.expected}" if fault.expected else ""
        first = f" The first: {printable(fault.name)}{expected}" + (
            f", got {fault.given}." if fault.given else "."
        )
    message = f"The weights in {directory} do not fit its configuration: {summary}{first}"
    return ConversionError(cut(message), error.faults)


def read_pretrained(
    source: str | os.PathLike[str],
    *,
    dtype: Any = None,
    task: str | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
    model_type: str | None = None,
    ignore: Collection[str] = (),
    adapter: Adapter | None = None,
    merge: bool = True,
) -> Pretrained:
    """Read a checkpoint's configuration and weights, without either framework.

    Args:
        source: a file, a directory, or the name of a model on the Hugging Face Hub (`"gpt2"`, needs huggingface_hub),
            also with a revision (`"gpt2@main"`).
        dtype: dtype of the weights: a name ("float32", "bf16"), or a dtype of numpy, torch or jax; None or "auto"
            keeps the dtype of the checkpoint, or takes float32 or float64 if it has several.
        task: task of the model, as in `load_pretrained`; None for the head that the checkpoint has.
        revision: branch, tag or commit on the Hugging Face Hub; None for the default branch.
        config: fields that replace or complete the fields of `config.json`; None for none.
        model_type: type of the model, such as "llama"; None for the one in `config.json`, or of its architecture.
        ignore: fields of `config.json` that are not read.
        adapter: LoRA adapter; None for none.
        merge: whether the adapter's updates are added to the weights; False to read only the tensors that it replaces.

    Raises:
        CheckpointError: there is no such checkpoint, a file is damaged, or the configuration is not supported.
        ConversionError: the weights do not fit the configuration.
    """
    wanted = dtype_name(dtype)
    directory = local_directory(source, revision)
    adapt = (
        None
        if adapter is None
        else partial(merged if merge else replaced, adapter=adapter, dtype=_numpy(wanted))
    )
    with _opened(directory, config, model_type, ignore, task, adapt) as opened:
        reading, converted = _converted(directory, opened, "torch_attention")
        name = _numpy(_common_dtype(converted, wanted))
        weights = {key: np.asarray(array, name) for key, array in converted.items()}
    return Pretrained(directory, reading, weights)


def _opened(
    directory: Path,
    config: Mapping[str, Any] | None,
    model_type: str | None,
    ignore: Collection[str],
    task: str | None,
    adapt: Callable[..., Reader] | None = None,
) -> Source:
    """Open a checkpoint with the changes of its configuration and the adapter that were asked for."""
    if config is not None and not isinstance(config, Mapping):
        raise InputError(f"config must be a mapping from fields to values, or None, got {config!r:.60}")
    changes = {**(config or {}), **({} if model_type is None else {"model_type": model_type})}
    return Source.open(directory, changes=changes, ignore=ignore, task=task, adapt=adapt)


def _converted(directory: Path, opened: Source, layout: str) -> tuple[Reading, Stream]:
    """The configuration of an opened checkpoint, and the planned conversion of its tensors."""
    reading, reader = opened.checked(), opened.reader
    try:
        return reading, stream(reader.specs, reader.read, reading.layout, layout, axes=reading.axes)
    except ConversionError as error:
        raise _unfit(directory, error) from error


def _common_dtype(converted: Stream, wanted: str | None) -> str:
    """The dtype of all weights: the given one, else their own, else float64 or float32 if they have several."""
    found = {spec.dtype.name for spec in converted.specs.values()}
    if wanted is not None:
        return wanted
    return next(iter(found)) if len(found) == 1 else "float64" if "float64" in found else "float32"


def dtype_name(dtype: Any) -> str | None:
    """The name of a floating-point dtype, given as a name or as a dtype of numpy, torch or jax; None for no choice.

    Raises:
        InputError: it is not a floating-point dtype.
    """
    if dtype is None or dtype == "auto":
        return None
    name = dtype if isinstance(dtype, str) else getattr(dtype, "__name__", str(dtype))
    name = name.rpartition(".")[2]
    name = SHORT_DTYPES.get(name, name)
    if name not in DTYPES:
        raise InputError(f"dtype must be auto, {', '.join(DTYPES)} or a dtype of that name, got {dtype!r}")
    return name
