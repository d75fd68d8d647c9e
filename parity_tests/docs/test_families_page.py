"""The page of proofs has a right row for every family that was run, and names the others."""

from parity_tests.helpers import readme_families
from parity_tests.helpers.family_draws import groups
from parity_tests.helpers.prove_families import COLUMNS, INTRODUCTION, PAGE, heads_of, written


def test_page_names_each_family_and_its_rows_have_all_classes_and_nothing_wrong():
    text = PAGE.read_text()
    assert text.startswith(INTRODUCTION)
    rows = {row[0]: dict(zip(COLUMNS, row, strict=True)) for row in written()}
    _, _, others = text.partition("Not run as a whole yet: ")
    absent = others.split(".\n")[0].split(", ") if others else []
    assert sorted([*rows, *absent]) == sorted(groups())
    for family, row in rows.items():
        names = groups()[family]
        assert row["classes with the same outputs"] == ", ".join(heads_of(names[0])), family
        assert row["configurations"] == str(len(names)), family
        assert row["wrong"] == "0", family
        equal, refused = map(int, row["draws: equal + refused"].split(" + "))
        assert equal > 0
        assert equal + refused >= 20, family


def test_readme_lists_the_model_types_of_the_registry():
    assert readme_families.README.read_text() == readme_families.readme()
