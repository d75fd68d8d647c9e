"""What results depend on: versions, devices, matmul precision, and the compiler's known defects."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from attention_bridge.canaries import Finding, try_canaries

PACKAGES = ("attention-bridge", "numpy", "safetensors", "torch", "jax", "jaxlib", "flax", "optax")
VARIABLES = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")


def collect() -> dict[str, Any]:
    """Everything that `attention-bridge info --json` prints; a framework that does not start is told, not raised."""
    findings = try_canaries()
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in PACKAGES},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "torch": _started("torch", _torch),
        "jax": _started("jax", _jax),
        "canaries": [_row(finding) for finding in findings],
        "ok": not any(finding.failed for finding in findings),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The same for people, line by line."""
    said = [f"{'python':<18}{found['python']}, {found['machine']}"]
    said += [f"{name:<18}{number or 'not installed'}" for name, number in found["versions"].items()]
    said += [f"{name} = {value}" for name, value in found["environment"].items()]
    for name in ("torch", "jax"):
        half = found[name]
        if half is None:
            continue
        if "error" in half:
            said.append(f"{name} does not start: {half['error']}")
            continue
        said.append(f"{name} devices: {', '.join(half['devices'])}")
        said.append(f"{name} matmul precision of float32: {half['matmul_precision']}")
    for row in found["canaries"]:
        said.append(f"canary: {row['name']}: {row['status']}{', ' * bool(row['detail'])}{row['detail']}")
        if row["failed"]:
            said.append(f"  to cure: {row['cure']}")
    return said


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _started(package: str, describe: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What a framework says of itself; None if it is not installed."""
    if find_spec(package) is None:
        return None
    try:
        return describe()
    except Exception as error:  # an installation can be broken in any way
        return {"error": " ".join(f"{type(error).__name__}: {error}".split())}


def _torch() -> dict[str, Any]:
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {"devices": devices, "matmul_precision": torch.get_float32_matmul_precision()}


def _jax() -> dict[str, Any]:
    import jax

    devices = [f"{device.platform}:{device.id} ({device.device_kind})" for device in jax.devices()]
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    return {"devices": devices, "matmul_precision": precision or "default"}


def _row(finding: Finding) -> dict[str, Any]:
    row = asdict(finding)
    return {**row.pop("canary"), **row, "failed": finding.failed}
