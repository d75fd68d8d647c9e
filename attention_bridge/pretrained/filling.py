"""Filling of a model without weights: each tensor goes to its device as soon as it is read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import ml_dtypes
import numpy as np

from attention_bridge.catalogue.part import Part, build, jax_shapes
from attention_bridge.errors import Fault
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.leaves import Spec, to_torch
from attention_bridge.weights.report import Report

# Functions and methods that give a PyTorch parameter its initial values.
INITIALISERS = {
    "constant_",
    "copy_",
    "fill_",
    "kaiming_uniform_",
    "normal_",
    "ones_",
    "trunc_normal_",
    "uniform_",
    "xavier_uniform_",
    "zero_",
    "zeros_",
}
Items = Iterable[tuple[str, np.ndarray]]
# The mirror of each framework; its layout has the same name.
PACKAGES = {"torch": "torch_attention", "jax": "jax_attention"}


def empty_model(part: Part, framework: str, dtype: str) -> Any:
    """The model with shapes and dtypes only, without memory for its parameters."""
    if framework == "jax":
        return jax_shapes(part, {"param_dtype": dtype})
    import torch

    with _without_initial_values():
        return build(part, PACKAGES["torch"], {"device": "meta", "dtype": getattr(torch, dtype)})


def _without_initial_values() -> AbstractContextManager[Any]:
    """Skip the initialisation of PyTorch's parameters: on the meta device it would import PyTorch's compiler."""
    from torch.overrides import TorchFunctionMode

    class Skip(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
        ) -> Any:
            named = kwargs or {}
            if getattr(func, "__name__", "") in INITIALISERS:
                tensor = args[0] if args else named["tensor"]
                if tensor.is_meta:
                    return tensor
            return func(*args, **named)

    return Skip()


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    """The shape of each tensor of a model, by its name."""
    return {name: tuple(leaf.shape) for name, leaf in open_container(model).leaves.items()}


def check_fit(specs: Mapping[str, Spec], origins: Mapping[str, str], model: Any, report: Report) -> None:
    """Raise unless the model has these tensors, of these shapes, and no others.

    Args:
        specs: shape and dtype of each converted tensor, by its name in the model.
        origins: names of the tensors in the file from which each is converted.
        model: the model without weights.
        report: the conversion, to which faults are added.

    Raises:
        ConversionError: a tensor is missing, unexpected or of a wrong shape.
    """
    wanted = shapes_of(model)
    for name, shape in wanted.items():
        if name not in specs:
            report.faults.append(Fault(name, "missing", str(shape), ""))
        elif specs[name].shape != shape:
            report.faults.append(Fault(name, "wrong shape", str(shape), str(specs[name].shape)))
    for name, spec in specs.items():
        if name not in wanted:
            report.faults.append(Fault(origins[name], "unexpected", f"no {name} in the target", str(spec)))
    report.raise_faults()


def fill(
    model: Any, framework: str, items: Items, dtype: str, *, device: Any = None, mesh: Any = None
) -> Any:
    """Put weights into a model without memory for them, each converted to `dtype`.

    Args:
        model: result of `empty_model`.
        framework: "torch" or "jax".
        items: name in the model and array of each tensor, in any order.
        dtype: name of the dtype of the weights.
        device: device of the weights; None for the default one.
        mesh: mesh whose devices share the weights; None for one device.
    """
    return (_fill_torch if framework == "torch" else _fill_jax)(model, items, dtype, device, mesh)


def _fill_torch(model: Any, items: Items, dtype: str, device: Any, mesh: Any) -> Any:
    import torch

    wanted = getattr(torch, dtype)
    place = (
        _torch_shards(model, mesh) if mesh is not None else lambda name, tensor: tensor.to(device or "cpu")
    )
    tensors = {name: place(name, _tensor(array).to(wanted)) for name, array in items}
    model.load_state_dict(tensors, assign=True)
    if mesh is not None:
        from torch.distributed.tensor import distribute_module

        return distribute_module(model, mesh, lambda path, module, mesh: None)
    return model


def _torch_shards(model: Any, mesh: Any) -> Callable[[str, Any], Any]:
    from torch.distributed.tensor import distribute_tensor

    from torch_attention.sharding import placements

    where = placements(model, mesh)

    def place(name: str, tensor: Any) -> Any:
        # Every process reads the file, so nothing is sent: each takes its own part.
        return distribute_tensor(tensor, mesh, where[name], src_data_rank=None)

    return place


def _tensor(array: np.ndarray) -> Any:
    """An array as a torch tensor, which shares its memory if it is whole and can be written to."""
    import torch

    if not (array.flags.c_contiguous and array.flags.writeable):
        return to_torch(array)
    if hasattr(
        ml_dtypes, array.dtype.name
    ):  # torch and numpy can exchange this dtype only as unsigned integers
        bits = torch.from_numpy(array.view(f"uint{8 * array.dtype.itemsize}"))
        return bits.view(getattr(torch, array.dtype.name))
    return torch.from_numpy(array)


def _fill_jax(model: Any, items: Items, dtype: str, device: Any, mesh: Any) -> Any:
    import jax
    from flax import nnx

    wanted = np.dtype(getattr(ml_dtypes, dtype, dtype))
    state = nnx.state(model, nnx.Not(nnx.RngState))
    variables = {".".join(map(str, path)): (path, x) for path, x in nnx.to_flat_state(state)}
    where = _jax_shards(model, mesh) if mesh is not None else {}
    filled = []
    with jax.enable_x64(True):  # else JAX would truncate 64 bits to 32
        for name, array in items:
            path, variable = variables[name]
            whole = np.asarray(array, wanted, order="C")
            filled.append((path, variable.replace(jax.device_put(whole, where.get(name, device)))))
    nnx.update(model, nnx.from_flat_state(filled))
    return model


def _jax_shards(model: Any, mesh: Any) -> Mapping[str, Any]:
    from jax_attention.sharding import placements

    return placements(model, mesh)
