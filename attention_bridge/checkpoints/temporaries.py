"""Names of temporary files, which say whose they are: those of processes that are gone are removed.

A process that is killed cleans up nothing. Its temporaries hold its number and its start in their names, so that the
next run removes them, and never those of a run that is still going on, in this machine or in another that shares the
directory.
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
    """A name beside `path` that nothing has, and that says which process takes it.

    Args:
        path: the file or directory to write.
        kind: `tmp` for what is thrown away if the process is killed, `old` for what is then put back.
    """
    pid = os.getpid()
    return path.with_name(f".{path.name}.{_machine()}-{pid}-{_start(pid) or 0}-{uuid.uuid4().hex[:8]}.{kind}")


def remove_stale(directory: Path) -> None:
    """Remove the temporaries in a directory whose processes are gone, and put back what they had moved aside."""
    with suppress(OSError):  # what cannot be cleaned up is no reason to write nothing
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
    """Remove a file or a directory, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        path.unlink(missing_ok=True)


@cache
def _machine() -> str:
    """This machine and, where processes are numbered in several namespaces, this one."""
    numbering = Path("/proc/self/ns/pid")
    place = numbering.readlink() if numbering.is_symlink() else ""
    return hashlib.sha256(f"{platform.node()} {place}".encode()).hexdigest()[:8]


def _lives(pid: int, start: int) -> bool:
    """Whether a process runs and is the one that started then, not another that has its number now."""
    if os.name == "nt":  # no signal asks there: it would end the process
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
    """When a process started, in the system's ticks; -1 if it has ended, None where the system does not say."""
    try:
        state, *numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if state in "ZX" else int(numbers[18])
