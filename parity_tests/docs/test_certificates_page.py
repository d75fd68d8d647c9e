"""The page on certificates names every field, kind and option."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from attention_bridge.cli import app
from attention_bridge.parity.certificates import schema

PAGE = (Path(__file__).parents[2] / "docs" / "certificates.md").read_text()
QUOTED = set(re.findall(r"`([^`\n]+)`", PAGE))


@pytest.mark.parametrize(
    "name", [*sorted(schema.RUN.keys() - {"name"}), *schema.WHOLE, *schema.KINDS, schema.SCHEMA]
)
def test_page_names_every_field_and_kind(name: str) -> None:
    assert name in QUOTED


def test_every_option_of_the_page_is_one_of_the_command() -> None:
    helps = {
        command: CliRunner().invoke(app, [command, "-h"], env={"COLUMNS": "200", "NO_COLOR": "1"}).output
        for command in ("check", "convert", "parity")
    }
    for command, option in re.findall(r"`?(?:attention-bridge )?(check|convert|parity) [^\n`]*(--\w+)", PAGE):
        assert option in helps[command], (command, option)
    assert {"--root DIR", "--quick"} <= QUOTED
