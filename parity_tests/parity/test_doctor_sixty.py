"""The doctor on sixty ports with one mistake each, and on right ports, in float32 and in bfloat16."""

from dataclasses import replace

import pytest

from parity_tests.helpers.doctor_cases.case import answer, found, judged
from parity_tests.helpers.doctor_cases.variants import HEALTHY, VARIANTS

QUICK = {3, 9, 12, 16, 18, 20, 29, 32, 35, 45, 49, 57}  # numbers of the variants in the quick suite


def marked(variants, quick):
    """The variants with numbers, those outside the quick suite as slow ones."""
    return [
        pytest.param(
            each,
            marks=[] if number in quick else pytest.mark.slow,
            id=f"{number} line {each.line} {each.name}",
        )
        for number, each in enumerate(variants, 1)
    ]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", marked(VARIANTS, QUICK))
def test_mistake_has_its_name_and_place(variant, dtype):
    said = answer(variant, dtype)
    assert said.kind == ("equal" if variant.quiet and dtype == "bfloat16" else "named"), said.verdict


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", marked(HEALTHY, {1, 15}))
def test_right_port_is_equal(variant, dtype):
    said = answer(variant, dtype)
    assert said.kind == "equal", said.verdict


def test_list_covers_every_line_with_sixty_variants():
    assert len(VARIANTS) == 60
    assert {each.line for each in VARIANTS} == {*range(1, 22)}
    assert len(HEALTHY) >= 10


def test_answers_at_other_places_or_with_other_names_are_wrong():
    right = VARIANTS[2]
    diagnosis = found(right, "float32")
    assert judged(right, "float32", diagnosis) == "named"
    for changes in ({"words": "does not scale"}, {"place": "model.layers.2.attention"}, {"line": 0}):
        assert judged(replace(right, **changes), "float32", diagnosis) == "wrong"
    silent = replace(diagnosis, status="healthy", findings=())
    assert judged(right, "float32", silent) == "equal"
