"""docs/loading.md: the page says which checkpoints load today."""

from pathlib import Path

import pytest

from parity_tests.helpers.loading_page import page

PAGE = Path(__file__).parents[2] / "docs" / "loading.md"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_page_says_what_loads():
    assert PAGE.read_text() == page() + "\n"
