"""Readers of quantised checkpoints that give dequantised tensors."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from attention_bridge.checkpoints.quantised.logical import BFLOAT16, FLOATS, Dtype, Logical, Read, Stored
from attention_bridge.checkpoints.quantised.methods import method
from attention_bridge.checkpoints.quantised.settings import Settings
from attention_bridge.checkpoints.quantised.signs import sign, weight_of_codes
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.errors import CheckpointError
from attention_bridge.weights.leaves import Spec

ADVICE = "save the model dequantised and load that"


def dequantised(
    reader: Reader,
    config: Mapping[str, Any],
    source: object = "config.json",
    *,
    dtype: Dtype | None = None,
    transposed: Collection[str] = (),
) -> Reader:
    """Read a quantised checkpoint as if it were not quantised.

    Args:
        reader: the opened checkpoint; the result's `close` closes it.
        config: the `quantization_config`.
        source: the file of `config`, for messages.
        dtype: dtype of the dequantised tensors, bfloat16, float16 or float32: `dtype` of config.json; None for the
            dtype of the first float tensor that is not quantised, or bfloat16.
        transposed: last names of modules whose weights are (in, out) in an unquantised checkpoint, such as `c_attn`
            of GPT-2.

    Returns:
        A reader with the dequantised tensors under their names in an unquantised checkpoint; weights are (out, in).
        Each is dequantised when it is read. Other tensors are unchanged, and the sidecars of quantised tensors
        (scales, zeros and so on) are absent.

    Raises:
        CheckpointError: the method is unknown or refused, or the tensors do not fit it: one is absent, has a wrong
            shape or dtype, or is quantised by another method. `reader` stays open.
    """
    settings = Settings(config, source)
    chosen = method(settings)
    if dtype is not None and np.dtype(dtype) not in FLOATS:
        raise CheckpointError(
            f"dequantised tensors must be bfloat16, float16 or float32, got {np.dtype(dtype)}"
        )
    stored = Stored(reader, chosen.name)
    tensors: dict[str, Logical] = {}
    for name, tensor in chosen.plan(stored, settings):
        if name in tensors or (name in reader.specs and name != tensor.parts[0]):
            raise stored.fault(f"it has {name} twice, quantised and not")
        turned = name.removesuffix(".weight").rpartition(".")[2] in transposed and len(tensor.shape) == 2
        tensors[name] = _turned(tensor) if turned else tensor
    used = {part for tensor in tensors.values() for part in tensor.parts}
    rest = {name: spec for name, spec in reader.specs.items() if name not in used}
    _check_rest(stored, rest)
    floats = (spec.dtype for spec in rest.values() if spec.dtype in FLOATS)
    return _reader(reader, tensors, rest, next(floats, BFLOAT16) if dtype is None else np.dtype(dtype))


def quantised_without_config(specs: Mapping[str, Spec]) -> str | None:
    """Describe a quantised checkpoint whose config.json has no `quantization_config`.

    Args:
        specs: shape and dtype of each tensor, by name.

    Returns:
        A sentence that names a quantised tensor and gives the remedy; None if no tensor shows quantisation.
    """
    found = sign(specs)
    if found is None:
        return None
    name, called = found
    return (
        f"{name} is quantised ({called}), but config.json has no quantization_config; "
        f"restore that field, or {ADVICE}"
    )


def surplus_bias(reader: Reader, name: str) -> bool:
    """Whether a tensor is a bias of zeros beside a weight.

    AutoGPTQ adds one to every quantised module, also to modules that have no bias. Where the model has no such bias,
    it can be left out.

    Args:
        reader: the result of `dequantised`.
        name: name of the tensor.

    Raises:
        CheckpointError: the file is damaged.
    """
    module, _, last = name.rpartition(".")
    weight, spec = reader.specs.get(f"{module}.weight"), reader.specs.get(name)
    if (
        last != "bias"
        or weight is None
        or spec is None
        or spec.shape not in (weight.shape[:1], weight.shape[1:])
    ):
        return False
    return not reader.read(name).any()


def _check_rest(stored: Stored, rest: Mapping[str, Spec]) -> None:
    """Check that no tensor outside the plan is quantised."""
    found = sign(rest)
    if found is not None:
        raise stored.fault(f"{found[0]} is quantised by another method ({found[1]}); {ADVICE}")
    name = weight_of_codes(rest)
    if name is not None:
        raise stored.fault(f"{name} is {rest[name]}, but nothing says how to dequantise it; {ADVICE}")


def _turned(tensor: Logical) -> Logical:
    """The transpose of a matrix."""

    def compute(read: Read, dtype: Dtype) -> np.ndarray:
        return np.ascontiguousarray(tensor.compute(read, dtype).T)

    return tensor._replace(shape=tensor.shape[::-1], compute=compute)


def _reader(reader: Reader, tensors: dict[str, Logical], rest: Mapping[str, Spec], dtype: Dtype) -> Reader:
    """A reader with the tensors in the order of the stored ones."""
    names = {tensor.parts[0]: name for name, tensor in tensors.items()}
    specs: dict[str, Spec] = {}
    for stored in reader.specs:
        if stored in names:
            specs[names[stored]] = Spec(tensors[names[stored]].shape, dtype)
        elif stored in rest:
            specs[stored] = rest[stored]

    def fetch(name: str) -> np.ndarray:
        return tensors[name].compute(reader.read, dtype) if name in tensors else reader.read(name)

    return Reader(reader.path, reader.format, specs, reader.metadata, fetch, reader.close)
