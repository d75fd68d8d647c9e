"""The proof of quantised families: right values are right, and wrong ones are found."""

import pytest

from parity_tests.helpers import family_quantised
from parity_tests.helpers.family_quantised import METHODS, quantised


@pytest.mark.parametrize("case", ["llama", "bert", "vit"])
def test_linear_layers_are_read_in_every_method(case):
    assert quantised(case) == (list(METHODS), [])


@pytest.mark.parametrize("method", METHODS)
def test_wrong_scale_is_found(method, monkeypatch):
    """The file has scales that are a hundredth larger than the values of the reference."""
    quantise, config = METHODS[method]

    def wrong(name, weight):
        tensors, values = quantise(name, weight)
        return {key: x if key == name else x * 1.01 for key, x in tensors.items()}, values

    monkeypatch.setattr(family_quantised, "METHODS", {method: (wrong, config)})
    right, faults = quantised("llama")
    assert right == []
    assert "times the bound" in faults[0]
