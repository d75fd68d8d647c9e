"""The environment that results depend on: versions, devices, matmul precision and known miscompilations."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from attention_bridge.accelerators.canaries import DEADLINE, Finding, how_it_ended, run_isolated, try_canaries
from attention_bridge.errors import printable
from attention_bridge.parity.certificates.environment import installed

PACKAGES = ("attention-bridge", "numpy", "safetensors", "torch", "jax", "jaxlib", "flax", "optax")
VARIABLES = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")


# Run in child processes: a framework can abort at start-up, for example on an unknown flag in XLA_FLAGS.
PROGRAMS = {
    "torch": """
import torch
devices = ["cpu"]
if torch.cuda.is_available():
    devices += [f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())]
if torch.backends.mps.is_available():
    devices.append("mps")
precision = torch.get_float32_matmul_precision()
""",
    "jax": """
import jax
devices = [f"{device.platform}:{device.id} ({device.device_kind})" for device in jax.devices()]
precision = jax.config.jax_default_matmul_precision or "default"
""",
}
ANSWER = "answer: "  # marks the answer among the lines that a framework prints itself
REPORT = """
import json
print("\\nanswer: " + json.dumps({"devices": devices, "matmul_precision": precision}))
"""


def collect() -> dict[str, Any]:
    """Collect the output of `attention-bridge info --json`; a framework that fails to start is reported, not raised."""
    findings = try_canaries()
    halves = {name: _started(name) for name in PROGRAMS}
    return {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: installed(name) for name in PACKAGES},
        "environment": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        **halves,
        "canaries": [_row(finding) for finding in findings],
        "ok": not any(finding.failed for finding in findings)
        and not any("error" in half for half in halves.values() if half is not None),
    }


def lines(found: dict[str, Any]) -> list[str]:
    """The collected environment as lines of text."""
    said = [f"{'python':<18}{found['python']}, {found['machine']}"]
    said += [f"{name:<18}{number or 'not installed'}" for name, number in found["versions"].items()]
    said += [f"{name} = {printable(value)}" for name, value in found["environment"].items()]
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
            said.append(f"  fix: {row['cure']}")
    return said


def _started(package: str) -> dict[str, Any] | None:
    """Devices and matmul precision of a framework, queried in a child process; None if it is not installed."""
    if find_spec(package) is None:
        return None
    try:
        done = run_isolated(PROGRAMS[package] + REPORT, DEADLINE)
    except subprocess.TimeoutExpired:
        return {"error": f"no answer within {DEADLINE:g} s"}
    except OSError as error:
        return {"error": f"cannot start a child process: {error}"}
    if done.returncode:
        return {"error": how_it_ended(done)}
    for line in reversed(done.stdout.splitlines()):
        if line.startswith(ANSWER):
            found: dict[str, Any] = json.loads(line.removeprefix(ANSWER))
            return found
    return {"error": "the process ended without an answer"}


def _row(finding: Finding) -> dict[str, Any]:
    row = asdict(finding)
    return {**row.pop("canary"), **row, "failed": finding.failed}
