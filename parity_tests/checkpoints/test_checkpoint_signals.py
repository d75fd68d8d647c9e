"""Processes killed by signals: older files stay, and temporary files disappear, at the latest with the next run."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from attention_bridge import checkpoints
from attention_bridge.checkpoints import atomic, temporaries
from attention_bridge.checkpoints.atomic import ENDING, ending_by_signal, replacing, swap
from parity_tests.helpers.checkpoint_samples import few, save, specs_of

ROOT = Path(__file__).parents[2]
WRITING = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a test run may ignore it
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from attention_bridge import checkpoints
from parity_tests.helpers.checkpoint_samples import few, specs_of

def items():
    for count, item in enumerate(few().items()):
        if count == 3:
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))
        yield item

shards = int(sys.argv[3]) or None
checkpoints.save(Path(sys.argv[1]), items(), specs_of(few()), max_shard_bytes=shards)
"""


def ended(path, name, shards):
    """Save a checkpoint in a child process that a signal ends before the last tensor; returns the finished process."""
    command = [sys.executable, "-c", WRITING, str(path), name, str(shards)]
    return subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, timeout=120)


def listing(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.mark.parametrize("shards", [0, 90], ids=["one file", "shards"])
def test_sigterm_keeps_older_files_and_leaves_no_others(tmp_path, shards):
    save(tmp_path / "model.safetensors", few(), max_shard_bytes=shards or None)
    before = listing(tmp_path)
    assert (
        ended(tmp_path / "model.safetensors", "SIGTERM", shards).returncode == -signal.SIGTERM
    )  # a shell shows 143
    assert listing(tmp_path) == before


@pytest.mark.parametrize("shards", [0, 90], ids=["one file", "shards"])
def test_temporaries_of_a_killed_process_are_removed_by_the_next_run(tmp_path, shards):
    save(tmp_path / "model.safetensors", few(), max_shard_bytes=shards or None)
    before = listing(tmp_path)
    assert ended(tmp_path / "model.safetensors", "SIGKILL", shards).returncode == -signal.SIGKILL
    assert listing(tmp_path).keys() > before.keys()
    save(tmp_path / "other.npz", few())
    assert listing(tmp_path).keys() == before.keys() | {"other.npz"}


def test_ctrl_c_while_a_torch_file_is_written_is_an_interrupt(tmp_path):
    save(tmp_path / "x.pt", few())
    before = listing(tmp_path)
    code = (
        "import os, signal, sys, torch; from pathlib import Path; from attention_bridge import checkpoints, cli\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "save = torch.save\n"
        "def interrupted(tree, file):\n"
        "    class Writing:\n"
        "        def write(self, data): os.kill(os.getpid(), signal.SIGINT); return file.write(data)\n"
        "        def flush(self): file.flush()\n"
        "    save(tree, Writing())\n"
        "torch.save = interrupted\n"
        "from parity_tests.helpers.checkpoint_samples import few, specs_of\n"
        "cli.app.command('write')(lambda: checkpoints.save(Path(sys.argv[2]), few().items(), specs_of(few())))\n"
        "cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "write", tmp_path / "x.pt"], cwd=ROOT, capture_output=True, timeout=120
    )
    assert done.returncode in (130, 2), done.stderr
    assert listing(tmp_path) == before


class TestOwners:
    def test_name_contains_the_owner(self, tmp_path):
        found = temporaries.OWNED.fullmatch(temporaries.temporary_name(tmp_path / "a.b.npz").name)
        assert found["name"] == "a.b.npz"
        assert int(found["pid"]) == os.getpid()
        assert temporaries._lives(int(found["pid"]), int(found["start"]))

    def test_files_of_living_processes_and_of_others_stay(self, tmp_path):
        mine = temporaries.temporary_name(tmp_path / "x.npz")
        gone = mine.name.replace(f"-{os.getpid()}-", "-4194305-")  # above the largest process id
        again = mine.name.replace(temporaries.OWNED.fullmatch(mine.name)["start"], "1")
        elsewhere = gone.replace(temporaries._machine(), "0123abcd")
        others = [".x.npz.tmp", ".x.npz.0123456789abcdef0123456789abcdef.tmp", "x.tmp"]
        for name in (mine.name, gone, again, elsewhere, *others):
            (tmp_path / name).write_bytes(b"x")
        (tmp_path / gone.replace(".tmp", "").replace(".x", ".y")).mkdir()
        temporaries.remove_stale(tmp_path)
        left = {path.name for path in tmp_path.iterdir() if path.is_file()}
        assert left == {mine.name, elsewhere, *others}

    def test_zombie_process_counts_as_ended(self):
        child = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
        start = temporaries._start(child.pid)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not temporaries._lives(child.pid, start)
        child.communicate()

    @pytest.mark.parametrize("there", [True, False])
    def test_directory_that_was_moved_aside_is_restored(self, tmp_path, there):
        aside = temporaries.temporary_name(tmp_path / "x", "old").name.replace(
            f"-{os.getpid()}-", "-4194305-"
        )
        (tmp_path / aside).mkdir()
        (tmp_path / aside / "old").touch()
        if there:
            (tmp_path / "x").mkdir()
        temporaries.remove_stale(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["x"]
        assert (tmp_path / "x" / "old").exists() is not there

    def test_directory_is_restored_after_an_interrupted_swap(self, tmp_path, monkeypatch):
        for name in ("x", "new"):
            (tmp_path / name).mkdir()
        rename = Path.rename

        def interrupted(self, target):
            rename(self, target)
            raise KeyboardInterrupt

        monkeypatch.setattr(Path, "rename", interrupted)
        with pytest.raises(KeyboardInterrupt):
            swap(tmp_path / "new", tmp_path / "x")
        monkeypatch.undo()
        temporaries.remove_stale(tmp_path)
        assert (tmp_path / "x").is_dir()


class TestSignals:
    @pytest.fixture(autouse=True)
    def handlers(self):
        before = {number: signal.getsignal(number) for number in ENDING}
        yield
        for number, handler in before.items():
            signal.signal(number, handler)

    def test_ignored_signals_stay_ignored(self):
        for number in ENDING:
            signal.signal(number, signal.SIG_IGN)
        with ending_by_signal():
            assert all(signal.getsignal(number) is signal.SIG_IGN for number in ENDING)

    def test_second_signal_does_not_interrupt_the_cleanup(self, monkeypatch):
        sent = []
        monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
        for number in ENDING:
            signal.signal(number, signal.SIG_DFL)

        def twice():
            with ending_by_signal():
                try:
                    signal.raise_signal(signal.SIGTERM)
                finally:
                    signal.raise_signal(signal.SIGTERM)

        with pytest.raises(SystemExit) as found:
            twice()
        assert found.value.code == 143
        assert sent == [signal.SIGTERM]

    def test_other_threads_set_no_handlers(self, tmp_path):
        def write():
            with replacing(tmp_path / "x") as file:
                file.write_bytes(b"x")

        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
        assert (tmp_path / "x").read_bytes() == b"x"


def test_interrupt_after_the_new_index_keeps_its_shards(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    save(path, few(), max_shard_bytes=90)
    changed = {name: np.zeros_like(array) for name, array in few().items()}
    count = 0

    def interrupted(directory):
        nonlocal count
        count += 1
        raise KeyboardInterrupt

    monkeypatch.setattr(atomic, "flush_entries", interrupted)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(path, changed.items(), specs_of(changed), max_shard_bytes=90)
    assert count == 1
    monkeypatch.undo()
    assert all(not array.any() for array in checkpoints.read(tmp_path).values())
