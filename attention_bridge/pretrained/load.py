"""Load a pretrained model: a Hugging Face directory or hub name in, a ready model of either mirror out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from attention_bridge.catalogue.part import build, jax_shapes
from attention_bridge.errors import CheckpointError, ConversionError, InputError, require
from attention_bridge.pretrained.families import Reading
from attention_bridge.pretrained.families.shown import cut
from attention_bridge.pretrained.source import Source
from attention_bridge.weights import convert, transfer

Framework = Literal["torch", "jax"]
# What the configurations of the mirrors raise for sizes that cannot be.
_UNBUILT = (ArithmeticError, AttributeError, LookupError, RuntimeError, StopIteration, TypeError, ValueError)
PACKAGES = {"torch": "torch_attention", "jax": "jax_attention"}


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint that has been read; neither framework was needed.

    Attributes:
        directory: where it was read from.
        reading: which model computes it, and how its tensors are laid out.
        weights: the weights under the hub's names, one dtype for all floats.
    """

    directory: Path
    reading: Reading
    weights: dict[str, np.ndarray]


def load_pretrained(
    source: str | os.PathLike[str], framework: Framework, *, dtype: Any = None, revision: str | None = None
) -> Any:
    """Read a checkpoint's configuration and weights into a ready model, in evaluation mode.

    Args:
        source: a directory, or the name of a model on the Hugging Face hub (`"gpt2"`, needs huggingface_hub).
        framework: "torch" or "jax".
        dtype: of the model's weights, as numpy or ml_dtypes know it ("float32", "bfloat16"); None leaves them as
            they are, or in the widest dtype if they have several.
        revision: branch, tag or commit on the hub.

    Returns:
        A module of `torch_attention.models` or `jax_attention.models`.

    Raises:
        CheckpointError: no such checkpoint, a damaged file, or a configuration that is not understood.
        ConversionError: weights that do not fit the configuration.
        InputError: another framework.
    """
    if framework not in PACKAGES:
        raise InputError(f"framework must be torch or jax, got {framework!r}")
    require(("torch",) if framework == "torch" else ("jax", "flax"), extra=framework)
    return make_model(read_pretrained(source, dtype=dtype, revision=revision), framework)


def make_model(pretrained: Pretrained, framework: Framework) -> Any:
    """A ready model, in evaluation mode, of what has been read; the same in either framework.

    Raises:
        ConversionError: weights that do not fit the configuration.
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
    """A PyTorch model of shapes alone with memory behind them, if its weights could at all be those."""
    wanted = sum(x.numel() for x in model.state_dict().values())
    given = sum(x.size for x in pretrained.weights.values())
    if wanted > 2 * given + 2**20:
        raise ConversionError(
            cut(
                f"The weights in {pretrained.directory} do not fit its configuration: "
                f"it describes {wanted} numbers, and they are {given}"
            )
        )
    return model.to_empty(device="cpu")


def _shapes(pretrained: Pretrained, framework: Framework) -> Any:
    """The model with shapes and dtypes only, without memory for its weights."""
    name = _float_dtype(pretrained.weights)
    if framework == "jax":
        return jax_shapes(pretrained.reading.model, {"param_dtype": name})
    import torch

    options = {"device": "meta", "dtype": getattr(torch, name)}
    return build(pretrained.reading.model, PACKAGES["torch"], options)


def _unfit(directory: Path, error: ConversionError) -> ConversionError:
    """The same refusal on one line: how many faults of each kind, and the first of them."""
    summary = str(error).partition("\n")[0].rpartition("nothing was written: ")[2]
    first = f" The first: {error.faults[0].name}." if error.faults else ""
    message = f"The weights in {directory} do not fit its configuration: {summary}{first}"
    return ConversionError(cut(message), error.faults)


def read_pretrained(
    source: str | os.PathLike[str], *, dtype: Any = None, revision: str | None = None
) -> Pretrained:
    """Read a checkpoint's configuration and weights; arguments and errors as in `load_pretrained`."""
    directory = _directory(source, revision)
    with Source.open(directory) as opened:
        reading = opened.checked()
        tensors = dict(opened.items())
    try:
        weights, _ = convert(tensors, reading.layout, "torch_attention", reading.axes)
    except ConversionError as error:
        raise _unfit(directory, error) from error
    return Pretrained(directory, reading, _with_dtype(weights, dtype))


def _directory(source: str | os.PathLike[str], revision: str | None) -> Path:
    path = Path(source)
    if path.exists() or path.is_absolute() or len(path.parts) > 2:
        return path
    require(("huggingface_hub",), extra="hub")
    from huggingface_hub import snapshot_download

    try:
        for weights in ("*.safetensors", "*.bin"):
            patterns = ["*.json", weights]
            directory = Path(snapshot_download(str(source), revision=revision, allow_patterns=patterns))
            if any(directory.glob(weights)):
                break
        return directory
    except Exception as error:  # the library has dozens: no network, no such name, no right to read
        reason = str(error).partition("\n")[0]
        raise CheckpointError(
            f"{source} is no directory here, and the Hugging Face hub does not give it: {reason}"
        ) from error


def _float_dtype(weights: Mapping[str, np.ndarray]) -> str:
    """The name of the one dtype that the weights have."""
    (name,) = {array.dtype.name for array in weights.values()}
    return name


def _with_dtype(weights: dict[str, np.ndarray], dtype: Any) -> dict[str, np.ndarray]:
    """All weights in one dtype: that given, or the widest that they have."""
    import ml_dtypes

    found = {array.dtype.name for array in weights.values()}
    if dtype is None:
        name = next(iter(found)) if len(found) == 1 else "float64" if "float64" in found else "float32"
    else:
        name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    wanted = np.dtype(getattr(ml_dtypes, name, name))
    return {key: array if array.dtype == wanted else array.astype(wanted) for key, array in weights.items()}
