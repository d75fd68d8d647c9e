"""Merged checkpoints: a base with the updates of an adapter added to its weights, tensor by tensor.

W + s B A is computed as by PEFT's `merge_and_unload` on the CPU, in the same order and dtypes. Its last bits are PEFT's
if PyTorch is installed, which then computes the products; NumPy's products may differ in the last bit.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import ml_dtypes
import numpy as np

from attention_bridge.checkpoints.reader import Reader
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.adapters.adapter import Adapter, Update
from attention_bridge.pretrained.adapters.input_axis import input_axis
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import Spec, to_numpy, to_torch

FLOATS = tuple(map(np.dtype, (ml_dtypes.bfloat16, np.float16, np.float32, np.float64)))


def merged(
    reader: Reader, adapter: Adapter, layout: Layout | None = None, dtype: np.dtype[Any] | None = None
) -> Reader:
    """A checkpoint with an adapter merged into its weights.

    With tied embeddings, an update of the embedding changes the output layer too, as in PEFT's merged model.

    Args:
        reader: the base, opened.
        adapter: the adapter.
        layout: layout of the base's tensors, which relates their spellings in both files and says which weights are
            (in, out); None to compare the ends of names, and to rely on shapes and `fan_in_fan_out`.
        dtype: dtype of the merged tensors, to which the base's are converted first, as for a model that PEFT is given
            in this dtype; None for the base's.

    Returns:
        A reader with the base's names; each tensor is read and merged when it is requested. Closing it
        closes the base.

    Raises:
        CheckpointError: a tensor of the adapter has no counterpart in the base, or does not fit it.
    """
    reader = replaced(reader, adapter, layout, dtype)
    spelled = Spelling(reader, layout)
    specs, changes = dict(reader.specs), {}
    for update in adapter.updates.values():
        name = spelled.find(update.weight)
        if name is None:
            raise CheckpointError(
                f"{adapter.path} has an update of {update.module}, but its base has no such weight: it adapts another "
                "model, or the weight is tied to another one"
            )
        if name in changes:
            raise CheckpointError(f"{adapter.path} has two updates of {name}")
        transposed = _is_transposed(update, name, reader.specs[name], adapter, layout)
        specs[name] = Spec(specs[name].shape, _dtype(dtype, specs[name].dtype))
        changes[name] = partial(_merge, dtype=specs[name].dtype, update=update, transposed=transposed)

    def fetch(name: str) -> np.ndarray:
        array = reader.read(name)
        return changes[name](array) if name in changes else array

    return replace(reader, specs=specs, fetch=fetch)


def replaced(
    reader: Reader, adapter: Adapter, layout: Layout | None = None, dtype: np.dtype[Any] | None = None
) -> Reader:
    """A checkpoint with the tensors that an adapter holds as a whole, such as new heads, but without its updates.

    Args:
        reader: the base, opened.
        adapter: the adapter.
        layout: layout of the base's tensors; None to compare the ends of names.
        dtype: dtype of these tensors; None for the base's.

    Returns:
        A reader with the base's names, and with the names of new tensors behind them. Closing it closes the base.

    Raises:
        CheckpointError: the base has no tensor of such a name, and `modules_to_save` does not include it.
    """
    spelled = Spelling(reader, layout)
    specs, sources = dict(reader.specs), {}
    common = {spec.dtype for spec in specs.values() if spec.dtype in FLOATS}
    for plain, (given, *_) in adapter.replaced.items():
        name = spelled.find(plain)
        if name is None and not adapter.config.saves(plain):
            raise CheckpointError(
                f"{adapter.path} has a tensor {given}, but its base has no {plain} that it could replace"
            )
        array = adapter.tensors[given]
        if name is not None and specs[name].shape[1:] != array.shape[1:]:  # the vocabulary may have grown
            raise CheckpointError(
                f"{adapter.path} has a tensor {given} of shape {array.shape}, but the base's has {specs[name].shape}"
            )
        only = next(iter(common)) if len(common) == 1 else array.dtype
        before = only if name is None else specs[name].dtype
        name = name or plain
        specs[name] = Spec(array.shape, _dtype(dtype, before))
        sources[name] = given
    repeated = _kept_heads(reader, layout, sources)
    specs |= {head: reader.specs[embedding] for head, embedding in repeated.items()}

    def fetch(name: str) -> np.ndarray:
        if name in sources:
            return adapter.tensors[sources[name]].astype(specs[name].dtype)
        return reader.read(repeated.get(name, name))

    return replace(reader, specs=specs, fetch=fetch)


def _kept_heads(reader: Reader, layout: Layout | None, replaced: Collection[str]) -> dict[str, str]:
    """Output heads that the base ties to an embedding that the adapter replaces: PEFT leaves them the base's values.

    Args:
        reader: the base.
        layout: layout of the base's tensors; None for none.
        replaced: names of the replaced tensors.

    Returns:
        The name of the embedding for the name of each head.
    """
    if layout is None:
        return {}
    spelled = {layout.canonical(name): name for name in reader.specs}
    heads = {tied.name for tied in layout.tied} & {"lm_head.weight", "embed_out.weight"}
    return {
        tied.name: spelled[tied.to]
        for tied in layout.tied
        if tied.name in heads and tied.name not in spelled and spelled.get(tied.to) in replaced
    }


class Spelling:
    """The names of a checkpoint's tensors, found by other spellings: with or without a prefix, or as in a layout."""

    def __init__(self, reader: Reader, layout: Layout | None) -> None:
        self.layout = layout
        self.names = reader.specs.keys()
        self.canonical = {} if layout is None else {layout.canonical(name): name for name in self.names}

    def find(self, name: str) -> str | None:
        """The name in the checkpoint, or None."""
        if name in self.names:
            return name
        if self.layout is not None and (found := self.canonical.get(self.layout.canonical(name))):
            return found
        ends = [each for each in self.names if each.endswith(f".{name}") or name.endswith(f".{each}")]
        return ends[0] if len(ends) == 1 else None


def _dtype(wanted: np.dtype[Any] | None, before: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a merged tensor: the requested one, unless updates cannot be added in it."""
    return wanted if wanted in FLOATS and before in FLOATS and wanted is not None else before


def _is_transposed(update: Update, name: str, spec: Spec, adapter: Adapter, layout: Layout | None) -> bool:
    """Whether a weight is (in, out); an error if the update does not fit it."""
    shape = (len(update.b), update.a.shape[1])  # out in
    axis = None if layout is None else input_axis(layout, name)
    if update.is_embedding:
        axis = 0
    elif axis is None and shape[0] == shape[1]:
        axis = 0 if adapter.config.fields.get("fan_in_fan_out") else 1
    elif axis is None:
        axis = 0 if spec.shape == shape[::-1] else 1
    if spec.dtype not in FLOATS:
        raise CheckpointError(
            f"{adapter.path} cannot be merged: {name} is {spec.dtype}; dequantise the base first"
        )
    expected = shape[::-1] if axis == 0 else shape
    if spec.shape != expected:
        raise CheckpointError(
            f"{adapter.path} has an update of shape {expected} for {name}, which has shape {spec.shape}"
        )
    return axis == 0


def _merge(weight: np.ndarray, dtype: np.dtype[Any], update: Update, transposed: bool) -> np.ndarray:
    """The weight with its update, rounded once; for embeddings the update is rounded before, as in PEFT."""
    weight = weight.astype(dtype, copy=False)
    wide = np.result_type(dtype, np.float32)
    delta = _product(update.b.astype(wide, copy=False), update.a.astype(wide, copy=False))  # out in
    delta = delta.T if transposed else delta
    delta *= wide.type(update.scale)
    if update.is_embedding and update.magnitude is None:
        return weight + delta.astype(dtype, copy=False)
    total = np.add(weight.astype(wide, copy=False), delta, out=delta)
    if update.magnitude is not None:
        factors = update.magnitude.astype(wide) / _norms(total, transposed)  # out
        total *= factors[None, :] if transposed else factors[:, None]
    return total.astype(dtype, copy=False)


def _product(b: np.ndarray, a: np.ndarray) -> np.ndarray:
    if find_spec("torch") is None:
        return b @ a
    import torch  # noqa: F401, for `to_torch`

    return to_numpy("product", to_torch(b) @ to_torch(a))


def _norms(weight: np.ndarray, transposed: bool) -> np.ndarray:
    """The Euclidean norm of the weights of each output."""
    if find_spec("torch") is None:
        return np.sqrt(np.square(weight).sum(axis=0 if transposed else 1))
    import torch

    weight = to_torch(weight)
    return to_numpy("norms", torch.linalg.norm(weight.mT if transposed else weight, dim=1))
