"""Fuzzing of all file readers: `python -m parity_tests.helpers.fuzz --seed 1 --count 100000 --children 2000`.

A mutant is a small valid file with damage (`mutants`), determined by the seed and its number. Reading it either

* raises an error of `attention_bridge.errors` on one line of at most 300 characters that names the file, or
* gives exactly the names, shapes, dtypes and bytes that a plain reader of the format gives (`plain_readers`).
  For formats with checksums, unless the damage updates them, these are the tensors of the valid file.

Reading a configuration raises or succeeds; a changed positive size or factor must change the result. The command exits
with 0 and the right target, or with 2, lines of at most 300 characters and no target. Anything else is a finding: an
error of another type, more than 512 MiB of memory, a process that dies, or one that takes too long.
"""

import argparse
import contextlib
import io
import json
import mmap
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

import numpy as np

from parity_tests.helpers import fuzz_samples as samples
from parity_tests.helpers import mutants, plain_readers

LONGEST = 300  # characters of a line
MEMORY = 512 * 2**20  # bytes of memory per mutant
DEADLINES = {"process": 20.0, "child": 60.0}  # seconds of CPU time per mutant
WAITING = 10  # factor on the deadline in wall-clock time, for a busy machine
START = 600.0  # seconds until the first mutant
FINDINGS = "findings.jsonl"


class FoundError(AssertionError):
    """A finding, described by its text."""


def generator(seed, number):
    return np.random.default_rng([seed, number])


def check_line(text, longest=LONGEST):
    """Raise for a message that is not one printable line, or too long."""
    if not text.isprintable() or len(text) > longest or not text:
        raise FoundError(f"a message of {len(text)} characters: {text[:400]!r}")


def read(path):
    """The tensors that the bridge reads from a checkpoint, or None where it raises a valid error."""
    from attention_bridge import checkpoints
    from attention_bridge.errors import CheckpointError

    found = {}
    try:
        with checkpoints.open(path) as reader:
            for name, array in reader.items():
                if (array.shape, array.dtype) != reader.specs[name]:
                    raise FoundError(
                        f"{name} was to be {reader.specs[name]}, but is {array.shape} {array.dtype}"
                    )
                found[name] = (array.shape, array.dtype.name, array.tobytes())
    except CheckpointError as error:
        check_line(str(error))
        if str(path.parent) not in str(error):
            raise FoundError(f"a message that names no file: {error}") from error
        return None
    return found


def check_tensors(found, expected, what):
    """Raise for tensors that differ from those expected."""
    if found != expected:
        names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
        shown = [(name, found.get(name, ())[:2], expected.get(name, ())[:2]) for name in names[:3]]
        raise FoundError(f"it was read, but not as {what}: {shown}"[:600])


def plainly(sample, path):
    """The tensors of the plain reader; an error of the plain reader, where the bridge succeeds, is a finding."""
    try:
        return sample.plain(path)
    except Exception as error:
        raise FoundError(
            f"it was read, but the plain reader says {type(error).__name__}: {error}"[:600]
        ) from error


class Checkpoints:
    """One valid checkpoint, and mutants of each of its files."""

    def __init__(self, sample, directory):
        self.sample = sample
        self.valid, self.place = directory / "valid", directory / "mutant"
        self.valid.mkdir(parents=True)
        self.main = sample.write(self.valid).relative_to(self.valid)
        self.contents = {
            path.relative_to(self.valid): path.read_bytes()
            for path in sorted(self.valid.rglob("*"))
            if path.is_file()
        }
        self.expected = read(self.valid / self.main)
        check_tensors(self.expected, plainly(sample, self.valid / self.main), "a plain reader reads it")

    def make(self, rng):
        """Write a mutant; returns its path and the kind of damage."""
        shutil.rmtree(self.place, ignore_errors=True)
        chosen = mutants.pick(rng, sorted(self.contents))
        kinds = self.sample.kinds(chosen)
        kind = mutants.pick(rng, kinds)
        for name, content in self.contents.items():
            path = self.place / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(kind(content, rng) if name == chosen else content)
        return self.place / self.main, kind

    def check(self, rng):
        path, kind = self.make(rng)
        found = read(path)
        if found is None:
            return "refused"
        if self.sample.checksums and kind in mutants.BLIND:
            check_tensors(found, self.expected, "the valid file")
        else:
            check_tensors(found, plainly(self.sample, path), "a plain reader reads it")
        return "read"


class Commands(Checkpoints):
    """The command `convert` on mutants of checkpoints whose tensor names the mirrors know."""

    TARGETS = ("y.safetensors", "y.npz", "y.msgpack", "y.pt")

    def check(self, rng):
        path, _ = self.make(rng)
        if rng.random() < 0.2:
            code, lines = command(["inspect", str(path)])
            if code not in (0, 2):
                raise FoundError(f"the command ended with {code}: {lines[:5]}")
            return "refused" if code else "read"
        goal = self.place / "out"
        goal.mkdir()
        target = goal / mutants.pick(rng, self.TARGETS)
        layout = "torch_attention"
        code, lines = command(["convert", str(path), str(target), "--from", layout, *self.extra(rng)])
        if code == 2:
            for line in lines:
                check_line(line or " ")
            if left := sorted(goal.iterdir()):
                raise FoundError(f"a refusal left {left}")
            return "refused"
        if code != 0:
            raise FoundError(f"the command ended with {code}: {lines[:5]}")
        found = samples.READERS[target.name](target)
        check_tensors(found, plainly(self.sample, path), "the source")
        return "read"

    def extra(self, rng):
        return mutants.pick(rng, ([], [], ["--json"], ["--explain"], ["--allow-unknown"]))


class ConfigCommands:
    """The command `convert` with mutants of a configuration."""

    def __init__(self, directory):
        self.place = directory / "model"
        self.config, self.expected = samples.write_model(self.place)

    def check(self, rng):
        goal = self.place / "out"
        shutil.rmtree(goal, ignore_errors=True)
        goal.mkdir()
        kind = mutants.pick(rng, (mutants.json_edited, mutants.json_edited, mutants.mutated))
        changed = kind(self.config, rng)
        (self.place / "config.json").write_bytes(changed)
        arguments = ["convert", str(self.place), str(goal / "y.safetensors"), "--to", "hf.bert"]
        given = mutants.pick(rng, ([], ["--config", str(self.place / "config.json")]))
        code, lines = command([*arguments, *given])
        if code == 2:
            for line in lines:
                check_line(line or " ")
            if left := sorted(goal.iterdir()):
                raise FoundError(f"a refusal left {left}")
            return "refused"
        if code != 0:
            raise FoundError(f"the command ended with {code}: {lines[:5]}")
        found = plain_readers.safetensors(goal / "y.safetensors")
        check_tensors({k: v for k, v in found.items() if k in self.expected}, self.expected, "the source")
        return "read"


def command(arguments):
    """Run the command in this process; returns its exit code and the lines of its messages."""
    from attention_bridge import cli

    before, out, err = sys.argv, io.StringIO(), io.StringIO()
    sys.argv = ["attention-bridge", *arguments]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as ended:
        code = ended.code or 0
    else:
        code = 0
    finally:
        sys.argv = before
    for line in out.getvalue().split("\n"):
        if not line.isprintable():
            raise FoundError(f"a line of the output: {line[:400]!r}")
    return code, err.getvalue().split("\n")


class Configs:
    """Configurations of all families with damaged structure, field values or bytes."""

    def __init__(self, directory):
        directory.mkdir(parents=True)
        self.path = directory / "config.json"
        self.configs = samples.configs()

    def check(self, rng):
        from attention_bridge.errors import CheckpointError
        from attention_bridge.pretrained.config_files import read_json
        from attention_bridge.pretrained.families import read_config

        name = mutants.pick(rng, sorted(self.configs))
        given = self.configs[name]
        field = None
        if rng.random() < 0.4:
            field = mutants.pick(rng, sorted(given))
            value = mutants.pick(rng, mutants.TRICKY_VALUES)
            text = mutants.json_text(mutants.as_pairs({**given, field: value})).encode()
        else:
            kind = mutants.pick(rng, (mutants.json_edited, mutants.mutated, mutants.swapped))
            text = kind(json.dumps(given).encode(), rng)
        self.path.write_bytes(text)
        try:
            reading = read_config(read_json(self.path), ["classifier.weight"], source=self.path)
        except CheckpointError as error:
            check_line(str(error))
            return "refused"
        if field in samples.ARITHMETIC and type(value) in (int, float) and value != given[field]:
            unchanged = reading == read_config(given, ["classifier.weight"], source=self.path)
            if unchanged and (name, field) not in samples.UNUSED:
                raise FoundError(f"{name} with {field}={value!r} is read as with {given[field]!r}")
        return "read"


class Pretrained:
    """Models loaded with mutants of their configuration."""

    def __init__(self, directory):
        self.place = directory / "model"
        self.config, _ = samples.write_model(self.place)

    def check(self, rng):
        from attention_bridge import errors
        from attention_bridge.pretrained.load import load_pretrained

        (self.place / "config.json").write_bytes(mutants.json_edited(self.config, rng))
        try:
            load_pretrained(self.place, framework="torch")
        except (errors.CheckpointError, errors.ConversionError) as error:
            check_line(str(error))
            return "refused"
        return "read"


SHARES = {
    "safetensors": 16, "safetensors index": 8, "torch index": 3, "npz": 12, "npz, compressed": 4, "msgpack": 14,
    "torch": 13, "old torch": 5, "gguf": 10, "config": 10, "pretrained": 1, "convert safetensors": 1,
    "convert npz": 1, "convert torch": 1, "convert beside a configuration": 1,
}  # fmt: skip
SHARES_OF_CHILDREN = {"keras": 1, "orbax": 1}


def checker(name, directory):
    """The object that checks mutants of a kind of file."""
    directory = directory / name.replace(", ", "-").replace(" ", "-")
    directory.mkdir()
    if name == "config":
        return Configs(directory / "configs")
    if name == "pretrained":
        return Pretrained(directory)
    if name == "convert beside a configuration":
        return ConfigCommands(directory)
    if name.startswith("convert "):
        return Commands(samples.named(name.removeprefix("convert ")), directory)
    return Checkpoints(samples.SAMPLES[name], directory)


class Worker:
    """Checks mutants one after another, in one process.

    Args:
        seed: seed of all mutants.
        shares: relative frequency of each kind of file.
        directory: working directory; findings are appended to a file in it.
    """

    def __init__(self, seed, shares, directory):
        self.seed, self.directory = seed, Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.names = [name for name, share in shares.items() for _ in range(share)]
        self.work = Path(tempfile.mkdtemp(dir=self.directory))
        self.checkers = {}
        self.outcomes = Counter()

    def one(self, number):
        """Check one mutant; returns the outcome."""
        rng = generator(self.seed, number)
        name = mutants.pick(rng, self.names)
        if name not in self.checkers:
            self.checkers[name] = checker(name, self.work)
        before = peak()
        try:
            outcome = self.checkers[name].check(rng)
            if peak() - before > MEMORY:
                raise FoundError(f"it took {(peak() - before) // 2**20} MiB")
        except Exception as error:
            outcome = "found"
            said = str(error) if isinstance(error, FoundError) else traceback.format_exc(limit=-6)
            self.note(number, name, said)
        self.outcomes[name, outcome] += 1
        return outcome

    def note(self, number, name, said):
        with (self.directory / FINDINGS).open("a") as file:
            file.write(json.dumps({"number": number, "name": name, "said": said}) + "\n")


def peak():
    """The peak memory of this process, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


STATE = struct.Struct(
    "<q2d"
)  # the current mutant, its start time, and the CPU time of the process at its start


def work(options):
    """Run as a child: check mutants `first`, `first + step`, ..., and report each to the parent before it starts."""
    import torch

    from attention_bridge.checkpoints import keras_h5

    torch.set_num_threads(1)
    keras_h5.DEADLINE = 15.0
    directory = Path(options.directory)
    shares = SHARES_OF_CHILDREN if options.group == "child" else SHARES
    worker = Worker(options.seed, shares, directory)
    for name in shares:
        worker.checkers[name] = checker(name, worker.work)
    with (directory / "state").open("r+b") as file, mmap.mmap(file.fileno(), STATE.size) as state:
        try:
            for number in range(options.first, options.count, options.step):
                state[:] = STATE.pack(number, time.time(), time.process_time())
                worker.one(number)
                if number // options.step % 200 == 0:
                    tell(directory, worker)
        finally:
            tell(directory, worker)
            shutil.rmtree(worker.work, ignore_errors=True)
        state[:] = STATE.pack(options.count, time.time(), 0.0)


def tell(directory, worker):
    """Write the counts for the parent."""
    counts = [[*key, count] for key, count in worker.outcomes.items()]
    (directory / f"counts-{os.getpid()}.json").write_text(json.dumps(counts))


def core_time(pid):
    """The CPU seconds of a process; zero where the system does not report them."""
    try:
        numbers = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")


class Watched:
    """One worker's part of the mutants, in a child process that is restarted when it dies or hangs."""

    def __init__(self, options, group, count, first):
        self.options, self.group, self.count, self.first = options, group, count, first
        self.directory = Path(options.directory) / f"{group}-{first}"
        self.directory.mkdir(parents=True)
        (self.directory / "state").write_bytes(STATE.pack(-1, time.time(), 0.0))
        self.start(first)

    def start(self, first):
        options = {"seed": self.options.seed, "group": self.group, "count": self.count, "first": first}
        options |= {"step": self.options.processes, "directory": self.directory}
        given = [f"--{name}={value}" for name, value in options.items()]
        errors = (self.directory / "stderr").open("ab")
        self.child = subprocess.Popen(
            [sys.executable, "-m", "parity_tests.helpers.fuzz", "--work", *given],
            stdout=errors,
            stderr=errors,
        )
        errors.close()

    def state(self):
        while (state := self.told()) != self.told():  # the child may be writing at the same time
            pass
        return STATE.unpack(state)

    def told(self):
        return (self.directory / "state").read_bytes()[: STATE.size]

    def done(self):
        """Whether all mutants are done; restarts a child that died or hangs."""
        ended = self.child.poll()
        number, since, taken = self.state()
        if ended is None and self.hangs(number, since, taken):
            self.child.kill()
            self.child.wait()
            ended = "it takes too long"
        if ended is None:
            return False
        if number >= self.count:
            return True
        told = f"signal {signal.Signals(-ended).name}" if isinstance(ended, int) and ended < 0 else ended
        tail = (self.directory / "stderr").read_text(errors="replace")[-800:]
        with (self.directory / FINDINGS).open("a") as file:
            said = f"the process ended: {told}\n{tail}"
            file.write(json.dumps({"number": number, "name": self.group, "said": said}) + "\n")
        if number < 0:
            return True
        (self.directory / "state").write_bytes(STATE.pack(-1, time.time(), 0.0))
        if number + self.options.processes >= self.count:
            return True
        self.start(number + self.options.processes)
        return False

    def hangs(self, number, since, taken):
        """Whether a mutant takes too much CPU time or wall-clock time."""
        if number < 0:
            return time.time() - since > START
        deadline = DEADLINES[self.group]
        return core_time(self.child.pid) - taken > deadline or time.time() - since > WAITING * deadline

    def counts(self):
        counted = Counter()
        for path in self.directory.glob("counts-*.json"):
            with contextlib.suppress(ValueError):  # while it is being written
                counted += Counter({(a, b): n for a, b, n in json.loads(path.read_text())})
        return counted

    def findings(self):
        path = self.directory / FINDINGS
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def supervise(options):
    """Run both groups, one after the other, and print the results; returns the exit code."""
    print(
        f"seed {options.seed}: {options.count} mutants in process, {options.children} read in child processes"
    )
    failed, started = 0, time.time()
    for group, count in (("process", options.count), ("child", options.children)):
        begun = time.time()
        watched = [Watched(options, group, count, first) for first in range(min(options.processes, count))]
        while [each for each in watched if not each.done()]:
            time.sleep(0.2)
            if time.time() - started > 60 * options.minutes:
                for each in watched:
                    each.child.kill()
                print(f"stopped after {options.minutes:g} minutes")
                failed += 1
                break
        counts = sum((each.counts() for each in watched), Counter())
        total, seconds = sum(counts.values()), time.time() - begun
        print(f"\n{total} mutants, {seconds:.0f} s, {total / max(seconds, 1e-9):.0f} a second")
        for name in sorted({name for name, _ in counts}):
            of = {kind: counts[name, kind] for kind in ("read", "refused", "found")}
            print(f"  {name:32} " + "  ".join(f"{kind} {n:6}" for kind, n in of.items()))
        for finding in [found for each in watched for found in each.findings()]:
            failed += 1
            if failed <= options.show:
                print(
                    f"\n{finding['name']}, mutant {finding['number']} (--group {group} --only {finding['number']}):"
                )
                print("  " + finding["said"].replace("\n", "\n  "))
    print(f"\n{failed} findings" if failed else "\nnothing found")
    return 1 if failed else 0


def only(options):
    """Check one mutant in this process, for debugging; its files are kept."""
    shares = SHARES_OF_CHILDREN if options.group == "child" else SHARES
    worker = Worker(options.seed, shares, options.directory)
    print(worker.one(options.only), worker.work)
    for line in (worker.directory / FINDINGS).read_text().splitlines()[-1:] if worker.outcomes else []:
        print(json.loads(line)["said"])


def main():
    parser = argparse.ArgumentParser(
        prog="python -m parity_tests.helpers.fuzz", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--seed", type=int, default=int(time.time()), help="of all mutants; the time if not given"
    )
    parser.add_argument("--count", type=int, default=100_000, help="mutants read in process")
    parser.add_argument("--children", type=int, default=2_000, help="mutants read in child processes")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=30.0, help="after which to stop")
    parser.add_argument("--show", type=int, default=20, help="findings to print")
    parser.add_argument("--directory", help="for files; a temporary one if not given")
    parser.add_argument("--only", type=int, help="check one mutant alone, and keep its files")
    parser.add_argument("--group", choices=list(DEADLINES), default="process", help="with --only")
    for name in ("--first", "--step"):
        parser.add_argument(name, type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options)
        return 0
    if options.directory is not None or options.only is not None:
        options.directory = options.directory or tempfile.mkdtemp()
        return only(options) if options.only is not None else supervise(options)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        options.directory = directory
        return supervise(options)


if __name__ == "__main__":
    sys.exit(main())
