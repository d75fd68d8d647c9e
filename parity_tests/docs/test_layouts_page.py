"""All code of the page on layouts runs, in its order, and prints the stated values."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attention_bridge import checkpoints
from attention_bridge.cli import app

PAGE = (Path(__file__).parents[2] / "docs" / "layouts.md").read_text()
BLOCKS = re.findall(r"```(python|sh)\n(.*?)```", PAGE, flags=re.DOTALL)


def test_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "page"}
    said = []
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "layouts.md", "exec"), space)
            printed = capsys.readouterr().out.splitlines()
            assert printed == re.findall(r"^print\(.*\)  # (.*)$", block, flags=re.MULTILINE)
            continue
        for line in block.splitlines():
            done = CliRunner().invoke(app, shlex.split(line)[1:])
            assert done.exit_code == 0, done.output
            said.append(done.output)
    draft, mine = space["draft"], space["MINE"]
    assert {(rule.theirs, rule.hub) for rule in draft.layout.rules} == {  # type: ignore[attr-defined]
        (rule.theirs, rule.hub)
        for rule in mine.rules  # type: ignore[attr-defined]
    }
    state = space["theirs"].state_dict()  # type: ignore[attr-defined]
    with checkpoints.open(checkpoints.find(tmp_path / "back.pt")) as reader:
        back = dict(reader.items())
    assert back.keys() == state.keys()
    assert all(back[name].tobytes() == x.numpy().tobytes() for name, x in state.items())
    assert any("draft-layout" in text for text in said)
