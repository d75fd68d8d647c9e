"""The file fuzzer: a short run finds no fault, and every planted fault is found."""

import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from attention_bridge import checkpoints
from parity_tests.helpers import fuzz, mutants

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore"
)  # warnings of PyTorch about other pickle versions, and of transformers about factors
def test_short_run_finds_no_fault(tmp_path):
    worker = fuzz.Worker(7, fuzz.SHARES, tmp_path)
    outcomes = Counter(worker.one(number) for number in range(1500))
    found = tmp_path / fuzz.FINDINGS
    assert not found.exists(), found.read_text()
    assert min(outcomes["read"], outcomes["refused"]) > 200


@pytest.mark.parametrize("name", ["safetensors", "npz", "msgpack", "torch", "gguf"])
@pytest.mark.filterwarnings("ignore")
def test_mutants_of_each_kind_find_no_fault(tmp_path, name):
    worker = fuzz.Worker(3, {name: 1}, tmp_path)
    for number in range(60):
        worker.one(number)
    found = tmp_path / fuzz.FINDINGS
    assert not found.exists(), found.read_text()


def test_mutants_depend_only_on_seed_and_number(tmp_path):
    made = []
    for at in range(2):
        (tmp_path / str(at)).mkdir()
        made.append([])
        for name in ("safetensors", "npz", "msgpack", "torch"):
            checker = fuzz.checker(name, tmp_path / str(at))
            for number in range(20) if at == 0 else reversed(range(20)):
                path, kind = checker.make(fuzz.generator(5, number))
                made[-1].append((name, number, kind.__name__, path.read_bytes()))
    assert sorted(made[0]) == sorted(made[1])


class TestFaults:
    """Planted faults, one of each kind."""

    def run(self, tmp_path, name="safetensors", count=60):
        worker = fuzz.Worker(3, {name: 1}, tmp_path)
        worker.checkers[name] = fuzz.checker(name, worker.work)
        yield worker
        for number in range(count):
            worker.one(number)
        yield (tmp_path / fuzz.FINDINGS).read_text()

    def found(self, tmp_path, monkeypatch, place, value, **options):
        steps = self.run(tmp_path, **options)
        next(steps)
        monkeypatch.setattr(*place, value)
        return next(steps)

    def test_lost_tensor(self, tmp_path, monkeypatch):
        items = checkpoints.Reader.items
        text = self.found(tmp_path, monkeypatch, (checkpoints.Reader, "items"), lambda r: list(items(r))[1:])
        assert "it was read, but not as a plain reader reads it" in text

    def test_unchecked_checksum(self, tmp_path, monkeypatch):
        from attention_bridge.checkpoints import zips

        monkeypatch.setattr(zips.zipfile.ZipExtFile, "_update_crc", lambda self, data: None)
        text = self.found(
            tmp_path, monkeypatch, (zips, "check_directory"), lambda *_: None, name="npz", count=200
        )
        assert "not as the valid file" in text

    def test_error_of_another_type(self, tmp_path, monkeypatch):
        def broken(path):
            raise KeyError(path)

        assert "KeyError" in self.found(tmp_path, monkeypatch, (checkpoints, "open"), broken, count=2)

    def test_message_of_two_lines(self, tmp_path, monkeypatch):
        from attention_bridge.errors import CheckpointError

        monkeypatch.setattr(CheckpointError, "__str__", lambda self: f"{self.args[0]}\n")
        assert "a message of" in self.found(tmp_path, monkeypatch, (os, "environ"), os.environ)

    def test_excessive_memory(self, tmp_path, monkeypatch):
        steps = iter(range(0, 2**40, 2**31))
        assert "MiB" in self.found(tmp_path, monkeypatch, (fuzz, "peak"), lambda: next(steps), count=3)

    def test_leftover_target(self, tmp_path, monkeypatch):
        from attention_bridge import cli

        def main():
            Path(sys.argv[3]).touch()
            raise SystemExit(2)

        name = "convert safetensors"
        text = self.found(tmp_path, monkeypatch, (cli, "main"), main, name=name, count=5)
        assert "a refusal left" in text

    @pytest.mark.parametrize(
        ("code", "told"),
        [("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "signal SIGSEGV"),
         ("import sys; sys.exit(3)", "3"), ("while True: pass", "it takes too long")],
    )  # fmt: skip
    def test_process_that_ends_or_hangs(self, tmp_path, monkeypatch, code, told):
        started = []

        def start(watched, first):
            watched.child = subprocess.Popen([sys.executable, "-c", code if not started else ""])
            started.append(first)
            (watched.directory / "stderr").touch()
            number = 4 if len(started) == 1 else watched.count
            (watched.directory / "state").write_bytes(fuzz.STATE.pack(number, time.time(), 0.0))

        monkeypatch.setattr(fuzz.Watched, "start", start)
        monkeypatch.setitem(fuzz.DEADLINES, "process", 0.5)
        options = SimpleNamespace(directory=tmp_path, processes=2, seed=1)
        watched = fuzz.Watched(options, "process", 9, 0)
        end = time.time() + 60
        while not watched.done() and time.time() < end:
            time.sleep(0.05)
        assert [finding["number"] for finding in watched.findings()] == [4]
        assert told in watched.findings()[0]["said"]
        assert started == [0, 6]


def test_format_aware_damage_keeps_the_format_valid():
    """A wrong length or checksum would be rejected at once, and the damage would test nothing else."""
    entries = [("a.npy", b"x" * 10), ("b.npy", b"y" * 20)]
    made = mutants.zip_of(entries, np.random.default_rng(0))
    assert mutants.zip_entries(made) == entries
    assert mutants.json_text(mutants.as_pairs({"a": [1, {"b": 3}]})) == '{"a":[1,{"b":3}]}'
    for damage in (mutants.swapped, mutants.extreme):
        assert len(damage(made, np.random.default_rng(0))) == len(made)


def test_command_line_prints_its_seed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "parity_tests.helpers.fuzz", "--seed", "5", "--count", "0", "--children", "0"],
        cwd=ROOT, capture_output=True, text=True, timeout=120, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("seed 5: ")
