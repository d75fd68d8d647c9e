"""The built wheel contains every module and data file, and works where it is installed."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch_attention", "jax_attention", "attention_bridge")

# In one worker, because two builds of one directory interfere.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("wheel")]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]  # the wheel from the sdist
    subprocess.run(build, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


def test_wheel_holds_every_module_and_data_file(wheel: Path) -> None:
    tracked = subprocess.run(
        ["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True
    )
    assert set(tracked.stdout.split()) <= set(zipfile.ZipFile(wheel).namelist())


def test_command_lists_the_catalogue_with_neither_framework_installed(wheel: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True, capture_output=True)
    listed = subprocess.run(
        [python.with_name("attention-bridge"), "list"], check=True, capture_output=True, text=True
    )
    assert "MultiHeadSelfAttention" in listed.stdout
    refused = subprocess.run([python.with_name("attention-bridge"), "demo"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "pip install" in refused.stderr
    for command in (["parity", "--all"], ["parity", "SelfAttention"]):
        refused = subprocess.run(
            [python.with_name("attention-bridge"), *command], capture_output=True, text=True
        )
        assert refused.returncode == 2
        assert "Traceback" not in refused.stderr
