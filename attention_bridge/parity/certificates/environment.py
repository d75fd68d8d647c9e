"""The environment on which the last bits of a comparison depend: versions, processor, threads and compiler flags."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("attention-bridge", "numpy", "ml_dtypes", "safetensors", "torch", "jax", "jaxlib", "flax")
VARIABLES = ("XLA_FLAGS",)
PROCESSORS = Path("/proc/cpuinfo")


def environment(of_jax: str | None) -> dict[str, Any]:
    """The environment as a part of a certificate.

    Args:
        of_jax: platform that JAX runs on; None if no model runs.
    """
    return {
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "processors": os.cpu_count(),
        "torch_threads": None if of_jax is None else sys.modules["torch"].get_num_threads(),
        "variables": {name: os.environ.get(name) for name in VARIABLES},
        "devices": None if of_jax is None else _devices(of_jax),
    }


def _devices(of_jax: str) -> dict[str, str]:
    """The device of each framework."""
    import jax
    import torch

    from attention_bridge.parity.run import torch_device

    device, other = torch_device(of_jax), jax.devices(of_jax)[0]
    name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
    return {"torch": f"{device}{name}", "jax": f"{other.platform} ({other.device_kind})"}


def is_reproducible(recorded: dict[str, Any], found: dict[str, Any]) -> bool:
    """Whether a repeated run must give the same bits: all is equal, and both frameworks run on the CPU."""
    devices = found["devices"]
    on_cpu = devices is None or all(each.startswith("cpu") for each in devices.values())
    return recorded == found and on_cpu


def changes(recorded: dict[str, Any], found: dict[str, Any]) -> str:
    """The entries of two environments that differ, in words."""
    flat, other = _flat(recorded), _flat(found)
    return ", ".join(
        f"{name} {flat.get(name)} -> {other.get(name)}"
        for name in {**flat, **other}
        if flat.get(name) != other.get(name)
    )


def _flat(entries: dict[str, Any]) -> dict[str, Any]:
    """The entries of nested objects by their own names."""
    flat: dict[str, Any] = {}
    for name, value in entries.items():
        flat |= (
            {f"{name}.{key}" if name == "devices" else key: x for key, x in value.items()}
            if isinstance(value, dict)
            else {name: value}
        )
    return flat


def installed(name: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _processor() -> str:
    """The model of the processor, as far as the system tells it."""
    try:
        lines = PROCESSORS.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())
