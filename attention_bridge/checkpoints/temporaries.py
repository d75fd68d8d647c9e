"""Names of temporary files that identify the owning process, so that leftovers of killed processes are removed.

A killed process cannot clean up. The names contain its machine, process id and start time, so that a later run removes
its leftovers and never the files of a running process, on this machine or on another that shares the directory.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shutil
import uuid
from contextlib import suppress
from functools import cache
from pathlib import Path

OWNED = re.compile(
    r"\.(?P<name>.+)\.(?P<machine>[0-9a-f]{8})-(?P<pid>\d+)-(?P<start>\d+)-[0-9a-f]{8}\.(?P<kind>tmp|old)"
)


def temporary_name(path: Path, kind: str = "tmp") -> Path:
    """An unused name beside `path` that identifies this process.

    Args:
        path: file or directory to write.
        kind: `tmp` for a file to remove if the process is killed, `old` for one to restore to `path`.
    """
    pid = os.getpid()
    return path.with_name(f".{path.name}.{_machine()}-{pid}-{_start(pid) or 0}-{uuid.uuid4().hex[:8]}.{kind}")


def remove_stale(directory: Path) -> None:
    """Remove the temporary files of ended processes from a directory, and restore files that they had moved aside."""
    with suppress(OSError):  # a failed cleanup must not prevent writing
        for entry in list(directory.iterdir()):
            found = OWNED.fullmatch(entry.name)
            if found is None or found["machine"] != _machine():
                continue
            if _lives(int(found["pid"]), int(found["start"])):
                continue
            target = directory / found["name"]
            if found["kind"] == "old" and not target.exists():
                entry.rename(target)
            else:
                remove(entry)


def remove(path: Path) -> None:
    """Remove a file or a directory if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """A hash of this machine's name and, on Linux, its process-id namespace."""
    numbering = Path("/proc/self/ns/pid")
    place = numbering.readlink() if numbering.is_symlink() else ""
    return hashlib.sha256(f"{platform.node()} {place}".encode()).hexdigest()[:8]


def _lives(pid: int, start: int) -> bool:
    """Whether the process with this id and start time still runs; another process may have reused the id."""
    if os.name == "nt":  # `os.kill` would terminate the process on Windows
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    now = _start(pid)
    return now is None or now == start


def _start(pid: int) -> int | None:
    """Start time of a process in clock ticks; -1 if it has ended, None if the system does not provide it."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if state in "ZX" else int(numbers[18])
