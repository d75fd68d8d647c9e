"""Checks that the weights, inputs and outputs of a case fit together, made before any arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attention_bridge.doctor.port import Array, Port
from attention_bridge.doctor.setting import Setting
from attention_bridge.errors import InputError
from attention_bridge.parity.measure import UNIT_ROUNDOFF
from attention_bridge.weights.leaves import to_numpy

QUERY = "q_proj.weight"
NORMS = ("attention_norm", "ffn_norm")
MAPS = ("q_proj", "k_proj", "v_proj", "out_proj", "ffn.up_proj", "ffn.down_proj")
KNOWN = {f"{name}.{kind}" for name in (*MAPS, *NORMS) for kind in ("weight", "bias")}
REQUIRED = (QUERY, "k_proj.weight", "v_proj.weight")


def make_port(
    x: Any, weights: Mapping[str, Any], setting: Setting, memory: Any = None, mask: Any = None
) -> Port:
    """Make the layer of the reference.

    Args:
        x: input of the layer, `(batch, query, embed)`.
        weights: arrays by their names in the canonical layout; all names may share one prefix.
        setting: hyperparameters of the reference.
        memory: source of keys and values, `(batch, key, memory_dim)`; None for self-attention.
        mask: boolean mask, True where a query may attend to a key, `(query, key)`, `(batch, query, key)` or
            `(batch|1, heads|1, query|1, key)`; None for no mask.

    Raises:
        InputError: an argument does not fit the others; the message names it.
    """
    inputs = as_float64("x", x)
    others = None if memory is None else as_float64("memory", memory)
    for name, array in (("x", inputs), ("memory", others)):
        if array is not None and array.ndim != 3:
            raise InputError(f"{name} must have shape (batch, length, features), got {array.shape}")
    if others is not None and len(others) != len(inputs):
        raise InputError(f"memory must have the batch of x, {len(inputs)}, got {others.shape}")
    named = {name: as_float64(name, array) for name, array in hub_names(weights).items()}
    port = Port(setting, named, inputs, others)
    _check_shapes(port)
    scores = (len(inputs), setting.num_heads, inputs.shape[1], port.keys.shape[1])
    return port if mask is None else Port(setting, named, inputs, others, _check_mask(mask, scores))


def as_array(name: str, x: Any) -> Array:
    """Convert an array of torch, JAX or numpy, or a list, to numpy.

    Raises:
        InputError: `x` is not an array.
    """
    try:
        return to_numpy(name, x) if hasattr(x, "dtype") else np.asarray(x)
    except (TypeError, ValueError) as error:
        raise InputError(f"{name} must be an array: {error}") from error


def as_float64(name: str, x: Any) -> Array:
    """Convert an array to float64.

    Raises:
        InputError: the values are not floating-point, or not finite.
    """
    array = as_array(name, x)
    if not is_floating(array):
        raise InputError(f"{name} must be floating-point, got {array.dtype}")
    exact = array.astype(np.float64)
    if not np.isfinite(exact).all():
        raise InputError(f"{name} must be finite, got NaN or infinity")
    return exact


def is_floating(array: Array) -> bool:
    """Whether the unit roundoff of the dtype is known."""
    return array.dtype.name in UNIT_ROUNDOFF


def hub_names(weights: Mapping[str, Any]) -> dict[str, Any]:
    """Strip the common prefix, such as `layers.0.attention.`, from the weights of one layer.

    Raises:
        InputError: a weight is missing, unknown, or belongs to a second layer.
    """
    found = [name.removesuffix(QUERY) for name in weights if name.endswith(QUERY)]
    if len(found) != 1:
        raise InputError(f"weights must hold one {QUERY}, got {', '.join(weights) or 'nothing'}")
    inner, outer = found[0], found[0].removesuffix("attention.")
    named = {}
    for name, array in weights.items():
        short = name.removeprefix(inner) if name.startswith(inner) else name.removeprefix(outer)
        if short not in KNOWN:
            raise InputError(
                f"weights hold {name}, which is not a weight of a layer: {', '.join(sorted(KNOWN))}"
            )
        named[short] = array
    return named


def _check_shapes(port: Port) -> None:
    """Check every weight's shape against the inputs, the numbers of heads and the other weights."""
    setting, weights = port.setting, port.weights
    for name in REQUIRED:
        if name not in weights:
            raise InputError(f"weights must hold {name}, got {', '.join(weights)}")
    if ("ffn.up_proj.weight" in weights) != ("ffn.down_proj.weight" in weights):
        raise InputError(
            "weights must hold both ffn.up_proj.weight and ffn.down_proj.weight, got one of them"
        )
    for name in MAPS:
        weight = weights.get(f"{name}.weight")
        if weight is not None and weight.ndim != 2:
            raise InputError(f"{name}.weight must have shape (out, in), got {weight.shape}")
    embed, memory_dim = port.x.shape[-1], port.keys.shape[-1]
    rows = {name: len(weights[f"{name}.weight"]) for name in ("q_proj", "v_proj")}
    for name, heads in (("q_proj", setting.num_heads), ("v_proj", setting.kv_heads)):
        if rows[name] % heads:
            raise InputError(
                f"{name}.weight must have a multiple of {heads} rows, an equal number per head, got {rows[name]}"
            )
    merged = rows["v_proj"] // setting.kv_heads * setting.num_heads
    out = len(weights["out_proj.weight"]) if "out_proj.weight" in weights else merged
    hidden = len(weights["ffn.up_proj.weight"]) if "ffn.up_proj.weight" in weights else 0
    if port.is_block and out != embed:
        raise InputError(
            f"a layer with residuals must have the features of x, {embed}, at its output, got {out}"
        )
    expected = {
        "q_proj": (rows["q_proj"], embed),
        "k_proj": (port.head_dim * setting.kv_heads, memory_dim),
        "v_proj": (rows["v_proj"], memory_dim),
        "out_proj": (out, merged),
        "ffn.up_proj": (hidden, embed),
        "ffn.down_proj": (embed, hidden),
    }
    for name, array in weights.items():
        part, _, kind = name.rpartition(".")
        if f"{part}.weight" not in weights:
            raise InputError(f"weights must hold {part}.weight beside {name}, got {', '.join(weights)}")
        shape = (embed,) if part in NORMS else expected[part] if kind == "weight" else expected[part][:1]
        if array.shape != shape:
            raise InputError(f"{name} must have shape {shape}, got {array.shape}")
    if setting.rope != "none":
        dim = setting.rope_dim or port.head_dim
        if dim > port.head_dim or dim % 2:
            raise InputError(f"rope_dim must be even and at most head_dim={port.head_dim}, got {dim}")


def _check_mask(mask: Any, scores: tuple[int, ...]) -> Array:
    """Check the mask and give it all four axes."""
    array = as_array("mask", mask)
    if array.dtype != bool:
        raise InputError(f"mask must be boolean, True where the query attends to the key, got {array.dtype}")
    if array.ndim in (2, 3):
        array = array[None, None] if array.ndim == 2 else array[:, None]
    if (
        array.ndim != 4
        or array.shape[-1] != scores[-1]
        or any(size not in (1, full) for size, full in zip(array.shape, scores, strict=True))
    ):
        raise InputError(
            "mask must have shape (query, key), (batch, query, key) or (batch|1, heads|1, query|1, key) "
            f"with (batch, heads, query, key) = {scores}, got {as_array('mask', mask).shape}"
        )
    return array
