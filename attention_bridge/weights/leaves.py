"""Conversion of single tensors between torch, JAX and numpy, bit for bit.

Neither framework is imported here: a tensor can only come from a framework that is already imported.
"""

from __future__ import annotations

import sys
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np


class Spec(NamedTuple):
    """Shape and dtype of a tensor."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __str__(self) -> str:
        return f"{self.shape} {self.dtype}"


def framework(name: str) -> Any:
    """The framework's module if it has been imported, else None."""
    return sys.modules.get(name)


def is_torch(leaf: object) -> bool:
    """Whether `leaf` is a torch tensor."""
    torch = framework("torch")
    return torch is not None and isinstance(leaf, torch.Tensor)


def is_jax(leaf: object) -> bool:
    """Whether `leaf` is a JAX array or a `jax.ShapeDtypeStruct`."""
    jax = framework("jax")
    return jax is not None and isinstance(leaf, jax.Array | jax.ShapeDtypeStruct)


def spec(name: str, leaf: Any) -> Spec:
    """Shape and numpy dtype of a leaf called `name`.

    Raises:
        TypeError: the leaf is not a tensor or is on torch's meta device, or numpy has no such dtype.
    """
    if is_torch(leaf):
        if leaf.is_meta:
            raise TypeError(f"{name} is on the meta device, which holds no values")
        return Spec(tuple(leaf.shape), _numpy_dtype(name, leaf.dtype))
    if isinstance(leaf, np.ndarray) or is_jax(leaf):
        return Spec(tuple(leaf.shape), np.dtype(leaf.dtype))
    raise TypeError(f"{name} is a {type(leaf).__name__}, not a torch tensor, JAX array or numpy array")


def to_numpy(name: str, leaf: Any) -> np.ndarray:
    """The values of a leaf called `name`; shares memory with the leaf where possible.

    Raises:
        TypeError: the leaf is not a tensor or holds no values, or numpy has no such dtype.
    """
    _, dtype = spec(name, leaf)
    if isinstance(leaf, np.ndarray):
        return leaf
    if is_jax(leaf):
        if isinstance(leaf, framework("jax").ShapeDtypeStruct):
            raise TypeError(f"{name} is a shape and a dtype without values")
        return np.asarray(leaf)
    tensor = leaf.detach().cpu().resolve_conj().resolve_neg()
    if _needs_bit_view(dtype):
        return tensor.view(getattr(framework("torch"), f"uint{8 * dtype.itemsize}")).numpy().view(dtype)
    return tensor.numpy()


def to_torch(array: np.ndarray) -> Any:
    """Copy an array to a torch tensor on the CPU, bit for bit."""
    torch = framework("torch")
    copied = np.array(array, order="C")
    if _needs_bit_view(array.dtype):
        bits = torch.from_numpy(copied.view(f"uint{8 * array.dtype.itemsize}"))
        return bits.view(getattr(torch, array.dtype.name))
    return torch.from_numpy(copied)


def like(leaf: Any, array: np.ndarray) -> Any:
    """Copy an array to the type and device of `leaf`, bit for bit."""
    if isinstance(leaf, np.ndarray):
        return np.array(array, order="C")
    if is_jax(leaf):
        jax = framework("jax")
        place = leaf.sharding if getattr(leaf, "committed", True) else None
        with jax.enable_x64(True):  # else JAX would truncate 64 bits to 32
            return jax.device_put(np.array(array, order="C"), place)
    torch = framework("torch")
    tensor = to_torch(array).to(leaf.device)
    return torch.nn.Parameter(tensor, leaf.requires_grad) if isinstance(leaf, torch.nn.Parameter) else tensor


def _needs_bit_view(dtype: np.dtype[Any]) -> bool:
    """Whether torch and numpy can exchange this dtype only as unsigned integers."""
    return hasattr(ml_dtypes, dtype.name)


def _numpy_dtype(name: str, dtype: Any) -> np.dtype[Any]:
    dtype_name = str(dtype).removeprefix("torch.")
    try:
        return np.dtype(getattr(ml_dtypes, dtype_name, dtype_name))
    except TypeError as error:
        raise TypeError(f"{name} has dtype {dtype}, which numpy does not have") from error
