"""The page of proofs has a row for every family, without a fault."""

from parity_tests.helpers import readme_families
from parity_tests.helpers.family_draws import groups
from parity_tests.helpers.prove_families import COLUMNS, INTRODUCTION, PAGE, heads_of, written


def test_page_has_a_row_for_each_family_with_all_its_classes_and_nothing_wrong():
    assert PAGE.read_text().startswith(INTRODUCTION)
    rows = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in written()}
    assert sorted(rows) == sorted(groups())
    for family, names in groups().items():
        row = rows[family]
        assert row["classes with the same outputs"] == ", ".join(heads_of(names[0])), family
        assert row["configurations"] == str(len(names)), family
        assert row["wrong"] == "0", family
        equal, refused = map(int, row["draws: equal + refused"].split(" + "))
        assert equal > 0
        assert equal + refused >= 20, family


def test_readme_lists_the_model_types_of_the_registry():
    assert readme_families.README.read_text() == readme_families.readme()
