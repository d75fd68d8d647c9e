"""The shape checks are on in `make test-shapes` alone, as the conditions of skipped tests assume."""

import pytest

from parity_tests.helpers import shape_checks


@pytest.mark.parametrize("_", ["quick", pytest.param("slow", marks=pytest.mark.slow)])
def test_shape_checks_are_on_as_the_options_say(pytestconfig, _):
    assert shape_checks.are_on() == bool(pytestconfig.getoption("jaxtyping_packages"))
