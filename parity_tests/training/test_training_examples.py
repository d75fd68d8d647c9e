"""The example scripts run in both frameworks, as a user starts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAINED = ("curves.png", "torch.safetensors", "jax.safetensors")
ALIGNED = (*TRAINED, "alignment-torch.png", "alignment-jax.png")
# Each example, with the files that it writes.
QUICK = {
    "classify_digits": (*TRAINED, "rollout.png"),
    "generate_text": (*TRAINED, "heads.png"),
    "induction_heads": (*TRAINED, "heads.png", "induction.png", "learning.png"),
    "translate_dates": tuple(f"{model}/{file}" for model in ("transformer", "recurrent") for file in ALIGNED),
}


def start(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "examples" / f"{name}.py"), *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_example_runs_in_both_frameworks_and_writes_its_pictures(name: str, tmp_path: Path) -> None:
    done = start(name, "--quick", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "largest relative difference of the losses" in done.stdout
    for file in QUICK[name]:
        assert (tmp_path / file).stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.parametrize("name", QUICK)
def test_example_without_a_run_to_resume_raises(name: str, tmp_path: Path) -> None:
    done = start(name, "--quick", "--resume", "--output", str(tmp_path))
    assert done.returncode == 2
    assert "holds no run to resume" in done.stderr
    assert "Traceback" not in done.stderr
