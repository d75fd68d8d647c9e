"""Canaries and the command `info`: a compiler defect is reported as a finding, never as a traceback."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from attention_bridge.accelerators import canaries
from attention_bridge.accelerators.canaries import CANARIES, NO_REDUCE_FUSION, Canary, Finding, try_canary
from attention_bridge.cli import app
from attention_bridge.cli import environment as info
from attention_bridge.parity import proof

ONE = Canary("one", "got = want = np.ones(1)", "nothing")


@pytest.mark.parametrize(
    ("code", "status", "detail"),
    [
        ("got = want = np.ones(3)", "ok", ""),
        ("got, want = np.zeros((2, 2)), np.eye(2)", "wrong", "2 of 4 elements differ, the first at [0, 0]"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashed", "signal 11"),
        ("raise ValueError('no such shape')", "crashed", "ended with exit code 1: ValueError: no such shape"),
        ("import os; os._exit(0)", "crashed", "the process ended without a result"),
    ],
)
def test_canary_result_is_a_finding(code: str, status: str, detail: str) -> None:
    finding = try_canary(replace(ONE, code=code))
    assert finding.status == status
    assert detail in finding.detail
    assert finding.failed == (status != "ok")


def test_canary_that_hangs_is_killed() -> None:
    finding = try_canary(replace(ONE, code="while True: pass"), deadline=0.5)
    assert (finding.status, finding.failed) == ("timed out", True)


def test_canary_sees_no_module_of_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jax.py").write_text("raise SystemError")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert try_canary(ONE).status == "ok"
    assert [path.name for path in tmp_path.iterdir()] == ["jax.py"]


def test_canary_without_jax_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "find_spec", lambda name: None)
    finding = try_canary(ONE)
    assert (finding.status, finding.failed) == ("not run", False)


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.name)
def test_cure_works(canary: Canary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XLA_FLAGS", NO_REDUCE_FUSION)
    finding = try_canary(canary)
    if finding.status == "not run":  # a jaxlib that no longer has the flag
        monkeypatch.delenv("XLA_FLAGS")
        finding = try_canary(canary)
    assert finding == Finding(canary, "ok")


def test_info_reports_failures_and_cures(monkeypatch: pytest.MonkeyPatch) -> None:
    findings = [Finding(CANARIES[0], "crashed", "signal 11"), Finding(CANARIES[1], "ok")]
    monkeypatch.setattr(info, "try_canaries", lambda: findings)
    monkeypatch.setenv("XLA_FLAGS", NO_REDUCE_FUSION)
    result = CliRunner().invoke(app, ["info", "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert [row["status"] for row in found["canaries"]] == ["crashed", "ok"]
    assert found["ok"] is False
    page = "\n".join(info.lines(found))
    for said in (sys.version.split()[0], f"XLA_FLAGS = {NO_REDUCE_FUSION}", "matmul precision", "cpu:0"):
        assert said in page
    assert f"{CANARIES[0].name}: crashed, signal 11\n  fix: {CANARIES[0].cure}" in page


def test_info_works_without_frameworks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(canaries, "find_spec", lambda name: None)
    monkeypatch.setattr(info, "find_spec", lambda name: None)
    found = info.collect()
    assert (found["torch"], found["jax"], found["ok"]) == (None, None, True)
    assert "not run, JAX is not installed" in "\n".join(info.lines(found))


def test_unknown_flag_is_reported_and_is_no_miscompilation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(info, "try_canaries", lambda: [try_canary(CANARIES[0])])
    monkeypatch.setenv("XLA_FLAGS", "--xla_no_such_flag=1")
    result = CliRunner().invoke(app, ["info"])
    assert result.exit_code == 0
    for start in ("jax does not start: ", f"canary: {CANARIES[0].name}: not run, "):
        [line] = [line for line in result.stdout.splitlines() if line.startswith(start)]
        assert line.endswith("--xla_no_such_flag=1")


def test_parity_warns_once_about_a_failed_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def fail() -> list[Finding]:
        tried.append(1)
        return [Finding(CANARIES[0], "wrong"), Finding(CANARIES[-1], "crashed")]

    monkeypatch.setattr(canaries, "try_canaries", fail)
    monkeypatch.setattr(proof, "measure_case", lambda *_: SimpleNamespace(differences=list))
    canaries._warnings.cache_clear()
    command = ["parity", "LuongAttention-dot", "--dtype", "float32"]
    first, second = (CliRunner().invoke(app, command) for _ in range(2))
    canaries._warnings.cache_clear()
    [line] = [line for line in first.stderr.splitlines() if "warning" in line]
    assert line.startswith("attention-bridge: warning: JAX miscompiles known programs here: last row of ")
    assert line.count(NO_REDUCE_FUSION) == 1
    assert "warning" not in second.stderr
    assert tried == [1]


def test_canary_with_hanging_children_is_killed_with_them() -> None:
    code = "import subprocess; subprocess.Popen(['sleep', '60']); raise ValueError('left a child')"
    start = time.monotonic()
    assert "ValueError: left a child" in try_canary(replace(ONE, code=code)).detail
    assert time.monotonic() - start < 50


def test_process_end_is_reported_in_one_clean_line() -> None:
    def ended(code: int, stderr: str) -> str:
        return canaries.how_it_ended(subprocess.CompletedProcess([], code, "", stderr))

    logged = (
        "F1129 13:13:41.608272   32046 parse_flags_from_env.cc:234] Unknown flag in XLA_FLAGS: --x\x1b[0m\n"
    )
    assert ended(1, logged) == "the process ended with exit code 1: Unknown flag in XLA_FLAGS: --x\\x1b[0m"
    assert ended(1, "  assert found\nAssertionError\n").endswith("1: AssertionError in assert found")
    assert ended(-11, "") == "the process ended with signal 11 (Segmentation fault)"


@pytest.mark.parametrize(
    ("printed", "said"),
    [("print('no JSON')", "ended without an answer"), ("import os; os._exit(0)", "ended without an answer")],
)
def test_info_reports_a_framework_without_an_answer(
    printed: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(info, "REPORT", printed)
    monkeypatch.setattr(info, "PROGRAMS", {"jax": "pass\n", "torch": "pass\n"})
    monkeypatch.setattr(info, "try_canaries", list)
    found = info.collect()
    assert said in found["jax"]["error"]
    assert found["ok"] is False


def test_info_answer_is_found_among_other_output(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = "import atexit; atexit.register(print, 'goodbye'); print('hello', end=''); devices = []; precision = 'x'"
    monkeypatch.setattr(info, "PROGRAMS", {"jax": noisy, "torch": noisy})
    monkeypatch.setattr(info, "try_canaries", list)
    monkeypatch.setenv("XLA_FLAGS", "--a\x1b[31m\nb")
    found = info.collect()
    assert found["jax"] == {"devices": [], "matmul_precision": "x"}
    assert found["ok"] is True
    assert "XLA_FLAGS = --a\\x1b[31m\\nb" in info.lines(found)
