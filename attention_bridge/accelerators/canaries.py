"""Canaries: known miscompilations of JAX, each tried in a child process.

A miscompiled program can return wrong values or crash the process. A canary is a short program that shows one such
defect. It runs isolated (`python -I`, in its own empty directory) with the caller's environment variables, so its
result holds for the `XLA_FLAGS` in use. This module imports no framework.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import IO

from attention_bridge.errors import printable

DEADLINE = 120.0
LOGGED = re.compile(
    r"^[IWEF]\d{4} [\d:.]+ +\d+ \S+\] "
)  # prefix of an XLA log message: time, thread and source line
NO_REDUCE_FUSION = "--xla_cpu_experimental_ynn_fusion_type=-reduce"


@dataclass(frozen=True)
class Canary:
    """A program that a defective compiler miscompiles.

    Attributes:
        name: short description of the miscompiled program.
        code: program that computes `got` and `want`, which should be equal; `jax`, `jnp` and `np` are imported.
        cure: fix for the defect: a flag to set or a version to install.
    """

    name: str
    code: str
    cure: str


@dataclass(frozen=True)
class Finding:
    """The result of one canary.

    Attributes:
        canary: the canary that was tried.
        status: `ok`, `wrong`, `crashed`, `timed out`, or `not run`.
        detail: description of the failure in one sentence; empty if the status is `ok`.
    """

    canary: Canary
    status: str
    detail: str = ""

    @property
    def failed(self) -> bool:
        """Whether the defect is present."""
        return self.status not in ("ok", "not run")


FLAG = f"add {NO_REDUCE_FUSION} to XLA_FLAGS"
FLAG_OR_VERSION = f"{FLAG}, or install jaxlib 0.12 or newer"

CANARIES = (
    Canary(
        name="last row of a compiled vmap over 32,769 rows, JAX on CPU",
        code="""
x = np.random.default_rng(0).standard_normal((32_769, 3)).astype(np.float32)
M = np.ones((3, 3), np.float32)
got = jax.jit(jax.vmap(lambda r: jnp.sum((M @ r) ** 2)))(x)
want = ((x @ M.T) ** 2).sum(-1)
""",
        cure=FLAG_OR_VERSION,
    ),
    Canary(
        name="unit vectors from a product with constant ones, 32,769 rows, JAX on CPU",
        code="""
x = np.random.default_rng(0).standard_normal((32_769, 3)).astype(np.float32)
def unit(y):
    return y / (1 + (y**2).sum(-1, keepdims=True)) ** 0.5
got = jax.jit(lambda x: unit(x @ jnp.ones((3, 3))))(x)
want = unit(x @ np.ones((3, 3), np.float32))
""",
        cure=FLAG,
    ),
    Canary(
        name="sum of a product over an inner axis of seven, JAX on CPU",
        code="""
a = np.random.default_rng(0).standard_normal((3, 1, 2, 2, 8, 8, 8)).astype(np.float32)
b = np.random.default_rng(1).standard_normal(a.shape).astype(np.float32)
got = jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(a, b)
want = (a * b).sum(3)
""",
        cure=FLAG_OR_VERSION,
    ),
)

PRELUDE = """
try:
    import jax
    import jax.numpy as jnp
    import numpy as np
except ImportError as error:
    print("not run:", *str(error).split())
    raise SystemExit(0)
jax.devices()
print("started", flush=True)
"""
COMPARISON = """
wrong = np.argwhere(~np.isclose(np.asarray(got), np.asarray(want), rtol=1e-4, atol=1e-4))
if wrong.size:
    first = ", ".join(map(str, wrong[0]))
    print(f"wrong: {len(wrong):,} of {want.size:,} elements differ, the first at [{first}]")
else:
    print("ok:")
"""


def run_isolated(code: str, deadline: float, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program in an isolated child process, in its own empty directory.

    Args:
        code: Python source of the program.
        deadline: seconds after which the process is killed.
        variables: environment variables added to this process's.

    Raises:
        subprocess.TimeoutExpired: the program takes longer than `deadline`.
        OSError: the process cannot be started.
    """
    command = [sys.executable, "-I", "-c", code]
    # Files instead of pipes: a pipe stays open while any process that the program started still runs.
    with (
        tempfile.TemporaryDirectory(prefix="canary-", ignore_cleanup_errors=True) as directory,
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
    ):
        child = subprocess.Popen(
            command,
            cwd=directory,
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            process_group=0,
        )
        try:
            child.wait(deadline)
        finally:
            _kill_group(child)
        texts = [_text(file) for file in (out, err)]
    return subprocess.CompletedProcess(command, child.returncode, *texts)


def _kill_group(child: subprocess.Popen[bytes]) -> None:
    """Kill the process and every process that it started."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def how_it_ended(done: subprocess.CompletedProcess[str]) -> str:
    """Describe in one line how a process failed: signal or exit code, and its last error message."""
    if done.returncode < 0:
        end = f"signal {-done.returncode} ({signal.strsignal(-done.returncode)})"
    else:
        end = f"exit code {done.returncode}"
    words = [LOGGED.sub("", line.strip()) for line in done.stderr.splitlines() if line.strip()]
    if not words:
        return f"the process ended with {end}"
    last = words[-1] if ":" in words[-1] or len(words) == 1 else f"{words[-1]} in {words[-2]}"
    return f"the process ended with {end}: {printable(last)}"


def try_canary(canary: Canary, deadline: float = DEADLINE) -> Finding:
    """Run one canary in a child process, on the CPU.

    Args:
        canary: the canary to try.
        deadline: seconds after which the child process is killed.
    """
    if find_spec("jax") is None:
        return Finding(canary, "not run", "JAX is not installed")
    try:
        done = run_isolated(PRELUDE + canary.code + COMPARISON, deadline, JAX_PLATFORMS="cpu")
    except subprocess.TimeoutExpired:
        return Finding(canary, "timed out", f"no result within {deadline:g} s")
    except OSError as error:
        return Finding(canary, "not run", f"cannot start a child process: {error}")
    if done.returncode:
        started = done.stdout.startswith("started")
        return Finding(canary, "crashed" if started else "not run", how_it_ended(done))
    status, colon, detail = "".join(done.stdout.strip().splitlines()[-1:]).partition(":")
    if not colon:
        return Finding(canary, "crashed", "the process ended without a result")
    return Finding(canary, status, detail.strip())


def try_canaries(canaries: Sequence[Canary] = CANARIES) -> list[Finding]:
    """Run all canaries, two at a time, and return the findings in the same order."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return list(pool.map(try_canary, canaries))


@cache
def _warnings() -> list[str]:
    failed = [finding for finding in try_canaries() if finding.failed]
    if not failed:
        return []
    said = []
    for cure in dict.fromkeys(finding.canary.cure for finding in failed):
        named = [f"{each.canary.name} ({each.status})" for each in failed if each.canary.cure == cure]
        said.append(f"{'; '.join(named)}: to fix this, {cure}")
    return [f"warning: JAX miscompiles known programs here: {'; '.join(said)}"]


def warn_once() -> str | None:
    """Return a one-line warning about failing canaries at the first call of the process, then None."""
    return _warnings().pop() if _warnings() else None
