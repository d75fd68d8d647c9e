"""Child processes that run a script of this package and no code from the current directory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from attention_bridge.checkpoints.atomic import ending_by_signal


def run(
    script: Path, *arguments: str, modules: Sequence[str], timeout: float
) -> subprocess.CompletedProcess[bytes]:
    """Run a script with `python -I`, in an empty temporary directory.

    In isolated mode, Python ignores `PYTHON*` variables and puts neither the script's directory nor the current one
    on the path. The directories of `modules` are passed as the script's last arguments.

    Args:
        script: file to run.
        arguments: first arguments of the script; paths must be absolute.
        modules: names of imported modules that the script imports, too.
        timeout: time limit, in seconds.

    Raises:
        subprocess.TimeoutExpired: the script did not end in time.
        OSError: no process can be started.
    """
    found = [Path(str(sys.modules[name].__file__)).absolute().parents[1] for name in modules]
    with ending_by_signal(), tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
        return subprocess.run(
            [sys.executable, "-I", str(script.absolute()), *arguments, *dict.fromkeys(map(str, found))],
            cwd=empty,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
        )
