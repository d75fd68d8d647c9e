"""The page of checkpoints that load is right today: a share of its rows, drawn by the commit, is tried."""

from pathlib import Path

import pytest

from attention_bridge.pages.markdown import table
from parity_tests.helpers import heads
from parity_tests.helpers.loading_page import INTRODUCTION, ROPES, class_rows, rope_rows, rotary
from parity_tests.helpers.share import share

PAGE = Path(__file__).parents[2] / "docs" / "loading.md"


def rows(text):
    return [line for line in text.splitlines() if line.startswith("| ")]


def test_page_has_a_row_for_each_class_and_each_family_with_rotary_positions():
    text = PAGE.read_text()
    assert text.startswith(INTRODUCTION)
    classes, rotations = text.split("## Scaling of rotary positions")
    assert sorted(row.split("`")[1] for row in rows(classes)[1:] if "`" in row) == sorted(heads.WRITTEN)
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows(rotations)[1:]][1:] == list(rotary())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_page_says_what_loads():
    written = rows(PAGE.read_text())
    found = [
        *rows(table(("family",) * 5, class_rows(sorted(share(heads.WRITTEN, 12)))))[2:],
        *rows(table(("family", *ROPES), rope_rows(sorted(share(rotary(), 6)))))[2:],
    ]
    assert found
    assert [row for row in found if row not in written] == []
