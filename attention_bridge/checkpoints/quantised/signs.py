"""Signs of quantisation in the names and dtypes of tensors.

They show a quantised checkpoint whose configuration does not say so, which must not be read as something else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from attention_bridge.weights.leaves import Spec


class Sign(NamedTuple):
    """A name that only a quantised checkpoint has.

    Attributes:
        sidecar: ending of a tensor's name, or a part that ends with a dot or with `__`.
        partners: endings instead of it, one of which must be there too; none for a name that suffices.
        method: name of the method.
    """

    sidecar: str
    partners: tuple[str, ...]
    method: str


SIGNS = (
    Sign(".weight_scale_2", (), "NVFP4"),
    Sign(".weight_packed", (), "compressed-tensors"),
    Sign("_scale_inv", ("",), "FP8"),
    Sign(".qscale_weight", (".weight",), "FP8"),
    Sign(".weight_scale", (".weight",), "FP8, BitNet or compressed-tensors"),
    Sign(".scale", (".weight",), "FP8"),
    Sign(".SCB", (".weight",), "bitsandbytes (8 bits)"),
    Sign(".weight.absmax", (".weight",), "bitsandbytes (4 bits)"),
    Sign(".qzeros", (".qweight",), "GPTQ or AWQ"),
    Sign(".scales", (".qweight",), "GPTQ or AWQ"),
    Sign("_scales", ("_blocks",), "MXFP4"),
    Sign(".weight_scales", (".weight", ".qweight"), "EETQ"),
    Sign(".weight._scale", (".weight._data",), "Quanto"),
    Sign(".codebooks", (".codes",), "AQLM"),
    Sign(".W_q", (), "HQQ"),
    Sign(".quant_state.bitsandbytes__nf4", (), "bitsandbytes (4 bits)"),
    Sign(".quant_state.bitsandbytes__fp4", (), "bitsandbytes (4 bits)"),
)
QUANTISED = ("int8", "uint8", "int16", "int32", "int64")


def sign(specs: Mapping[str, Spec]) -> tuple[str, str] | None:
    """Find a sign of quantisation.

    Args:
        specs: shape and dtype of each tensor, by name.

    Returns:
        The name of the quantised tensor, or of its sidecar, and the method; None if there is no sign.
    """
    for name in specs:
        for found in SIGNS:
            if not name.endswith(found.sidecar):
                continue
            module = name.removesuffix(found.sidecar)
            if not found.partners:
                return name, found.method
            for partner in found.partners:
                if f"{module}{partner}" in specs and quantised(specs[f"{module}{partner}"]):
                    return f"{module}{partner}", found.method
    return None


def quantised(spec: Spec) -> bool:
    """Whether the dtype is one of quantised values: whole numbers or 8-bit floats."""
    return spec.dtype.name in QUANTISED or spec.dtype.name.startswith("float8_")


def weight_of_codes(specs: Mapping[str, Spec]) -> str | None:
    """Name of a `weight` of whole numbers or 8-bit floats, which no unquantised model has; None for none."""
    for name, spec in specs.items():
        if name.rpartition(".")[2] in ("weight", "qweight") and quantised(spec) and np.prod(spec.shape) > 0:
            return name
    return None
