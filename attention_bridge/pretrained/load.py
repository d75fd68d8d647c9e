"""Loading of pretrained models from a directory or from the Hugging Face Hub, into either mirror."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attention_bridge.catalogue.part import build, jax_shapes
from attention_bridge.errors import CheckpointError, ConversionError, InputError, require
from attention_bridge.pretrained.adapters import (
    Adapter,
    apply_adapter,
    base_of,
    is_adapter,
    merged,
    read_adapter,
    replaced,
)
from attention_bridge.pretrained.families import Reading
from attention_bridge.pretrained.families.shown import cut
from attention_bridge.pretrained.source import Source
from attention_bridge.weights import convert, transfer

Framework = Literal["torch", "jax"]
# Exceptions that the mirrors' configurations raise for impossible sizes.
_UNBUILT = (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError)
DTYPES = ("float32", "bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2")
SHORT_DTYPES = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
}
PACKAGES = {"torch": "torch_attention", "jax": "jax_attention"}


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
        revision: branch, tag or commit on the Hugging Face Hub; None for the default branch.
        config: fields that replace or complete the fields of `config.json`; None for none.
        model_type: type of the model, such as "llama"; None for the one in `config.json`, or of its architecture.
        ignore: fields of `config.json` that are not read.
        adapter: directory of a LoRA adapter, as PEFT saves it, or its name on the Hugging Face Hub; None for none. If
            `source` is such a directory itself, the base model that it names is loaded.
        merge: whether the adapter is added to the weights; False for `LoRALinear` layers, ready to be trained.

    Returns:
        A module of `torch_attention.models` or `jax_attention.models`.

    Raises:
        CheckpointError: there is no such checkpoint, a file is damaged, or the configuration is not supported.
        ConversionError: the weights do not fit the configuration.
        InputError: `framework` is neither "torch" nor "jax", or `dtype` is not a floating-point dtype.
    """
    if framework not in PACKAGES:
        raise InputError(f"framework must be torch or jax, got {framework!r}")
    require(("torch",) if framework == "torch" else ("jax", "flax"), extra=framework)
    directory = _directory(source, revision)
    if adapter is None and is_adapter(directory):
        adapter, directory = directory, _directory(base_of(directory), None)
    update = None if adapter is None else read_adapter(_directory(adapter, None))
    read = read_pretrained(
        directory,
        dtype=dtype,
        config=config,
        model_type=model_type,
        ignore=ignore,
        adapter=update,
        merge=merge,
    )
    model = make_model(read, framework)
    if update is None or merge:
        return model
    return apply_adapter(model, update, read.reading.layout, read.reading.axes)


def make_model(pretrained: Pretrained, framework: Framework) -> Any:
    """Build the model of a checkpoint that `read_pretrained` has read, in evaluation mode.

    Args:
        pretrained: configuration and weights.
        framework: "torch" or "jax".

    Raises:
        CheckpointError: the configuration describes no model that can be built.
        ConversionError: the weights do not fit the configuration.
    """
    try:
        model = _shapes(pretrained, framework)
    except _UNBUILT as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise CheckpointError(
            cut(f"The configuration in {pretrained.directory} describes no model that can be built: {reason}")
        ) from error
    if framework == "torch":
        model = _with_memory(model, pretrained)
    model.eval()
    try:
        return transfer(pretrained.weights, model)
    except ConversionError as error:
        raise _unfit(pretrained.directory, error) from error


def _with_memory(model: Any, pretrained: Pretrained) -> Any:
    """Allocate the memory of a PyTorch model on the meta device, unless it is far larger than the weights."""
    wanted = sum(x.numel() for x in model.state_dict().values())
    given = sum(x.size for x in pretrained.weights.values())
    if wanted > 2 * given + 2**20:
        raise ConversionError(
            cut(
                f"The weights in {pretrained.directory} do not fit its configuration: "
                f"it describes {wanted} parameters, but they have {given}"
            )
        )
    return model.to_empty(device="cpu")


def _shapes(pretrained: Pretrained, framework: Framework) -> Any:
    """The model with shapes and dtypes only, without memory for its parameters."""
    name = _float_dtype(pretrained.weights)
    if framework == "jax":
        return jax_shapes(pretrained.reading.model, {"param_dtype": name})
    import torch

    options = {"device": "meta", "dtype": getattr(torch, name)}
    return build(pretrained.reading.model, PACKAGES["torch"], options)


def _unfit(directory: Path, error: ConversionError) -> ConversionError:
    """The error in one line: the number of faults of each kind, and the first one."""
    summary = str(error).partition("\n")[0].rpartition("nothing was written: ")[2]
    first = f" The first: {error.faults[0].name}." if error.faults else ""
    message = f"The weights in {directory} do not fit its configuration: {summary}{first}"
    return ConversionError(cut(message), error.faults)


def read_pretrained(
    source: str | os.PathLike[str],
    *,
    dtype: Any = None,
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
    import ml_dtypes

    wanted = dtype_name(dtype)
    directory = _directory(source, revision)
    changes = {**(config or {}), **({} if model_type is None else {"model_type": model_type})}
    with Source.open(directory, changes=changes, ignore=ignore) as opened:
        if adapter is not None:
            layout = None if opened.reading is None else opened.reading.layout
            into = None if wanted is None else np.dtype(getattr(ml_dtypes, wanted, wanted))
            reader = (merged if merge else replaced)(opened.reader, adapter, layout, into)
            opened = opened.with_reader(reader, changes, ignore)
        reading = opened.checked()
        tensors = dict(opened.items())
    try:
        weights, _ = convert(tensors, reading.layout, "torch_attention", reading.axes)
    except ConversionError as error:
        raise _unfit(directory, error) from error
    return Pretrained(directory, reading, _with_dtype(weights, wanted))


def _directory(source: str | os.PathLike[str], revision: str | None) -> Path:
    path = Path(source)
    if path.exists() or path.is_absolute() or len(path.parts) > 2:
        return path
    name, _, after = str(source).partition("@")
    if after and revision is not None and after != revision:
        raise InputError(f"revision must be given once, got {source!r} and revision={revision!r}")
    revision = after or revision
    require(("huggingface_hub",), extra="hub")
    from huggingface_hub import snapshot_download

    try:
        for weights in ("*.safetensors", "*.bin"):
            patterns = ["*.json", weights]
            directory = Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
            if any(directory.glob(weights)):
                break
        return directory
    except Exception as error:  # huggingface_hub raises dozens of types: no network, no such name, no access
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{source} is not a local directory, and the Hugging Face Hub does not provide it: {reason}"
        ) from error


def _float_dtype(weights: Mapping[str, np.ndarray]) -> str:
    """The name of the weights' common dtype."""
    (name,) = {array.dtype.name for array in weights.values()}
    return name


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


def _with_dtype(weights: dict[str, np.ndarray], name: str | None) -> dict[str, np.ndarray]:
    """All weights in one dtype: the given one, else their own, else float64 or float32 if they have several."""
    import ml_dtypes

    found = {array.dtype.name for array in weights.values()}
    if name is None:
        name = next(iter(found)) if len(found) == 1 else "float64" if "float64" in found else "float32"
    wanted = np.dtype(getattr(ml_dtypes, name, name))
    return {key: array if array.dtype == wanted else array.astype(wanted) for key, array in weights.items()}
