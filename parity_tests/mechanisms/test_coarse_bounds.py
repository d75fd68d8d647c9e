"""Negative controls in bfloat16: a wrong module exceeds the proof's tolerance, for every mechanism.

The correct module errs by far less than its tolerance. All zeros, a wrong factor and a cast to 8 bits err by more.
"""

from copy import deepcopy
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

from attention_bridge.catalogue import CATALOGUE, Mechanism
from attention_bridge.parity import instances, proof
from attention_bridge.parity.measure import SMALL, error
from attention_bridge.parity.rounded import Rounded
from attention_bridge.parity.run import Arrays, is_float, named_outputs
from attention_bridge.weights import transfer
from attention_bridge.weights.leaves import to_numpy, to_torch

# A factor on a weight directly before a norm has no effect; location features are a small part of their scores.
WITHOUT_SCALE = {
    "MultiHeadLatentAttention": ("q_a_proj.weight",),
    "AbsorbedLatentAttention": ("q_a_proj.weight",),
    "LightningIndexer": ("k_proj.weight",),
    "LocationAwareAttention": ("location_conv.weight", "location_proj.weight"),
}
PROVEN = [mechanism for mechanism in CATALOGUE if "bfloat16" in mechanism.dtypes]
FIRST = {mechanism.family: mechanism for mechanism in reversed(PROVEN)}.values()


class Bfloat16:
    """A PyTorch mechanism in bfloat16 under the most general mask."""

    def __init__(self, mechanism: Mechanism) -> None:
        case = "empty row" if mechanism.masks else "none"
        self.mechanism = mechanism
        self.reference = proof.reference_run(mechanism, case, None)
        exact = instances.with_full_masks(mechanism, instances.inputs(mechanism, case))
        self.given = {name: x.astype(ml_dtypes.bfloat16) if is_float(x) else x for name, x in exact.items()}
        self.weights = instances.cast_parameters(mechanism, "bfloat16")
        self.bound = proof._bound(mechanism, case, "bfloat16", self.given, self.reference, True).tolerances()[
            "output"
        ]

    def error(self, weights: Arrays, given: Arrays | None = None) -> float:
        """The largest relative error over all outputs, with these weights and inputs."""
        module = transfer(weights, deepcopy(instances.torch_module(self.mechanism, "bfloat16")))
        inputs = {name: to_torch(x) for name, x in (given or self.given).items()}
        with torch.no_grad():
            made = named_outputs(module(**inputs, **self.mechanism.options(True)))
        right = self.reference.outputs
        return max(error(to_numpy(name, x), right[name]) for name, x in made.items())


def through_8_bits(x: np.ndarray) -> np.ndarray:
    return x.astype(ml_dtypes.float8_e5m2).astype(x.dtype)


@pytest.mark.parametrize(
    "mechanism",
    [pytest.param(each, id=each.name, marks=() if each in FIRST else pytest.mark.survey) for each in PROVEN],
)
def test_wrong_module_exceeds_the_bound(mechanism: Mechanism) -> None:
    tried = Bfloat16(mechanism)
    assert tried.bound <= SMALL < 1  # an output of zeros has error 1
    assert tried.error(tried.weights) <= 0.9 * tried.bound
    matrices = [name for name, x in tried.weights.items() if x.ndim > 1 and x.size > x.shape[-1]]
    for name in set(matrices) - set(WITHOUT_SCALE.get(mechanism.name, ())):
        twice = {**tried.weights, name: (2 * tried.weights[name]).astype(ml_dtypes.bfloat16)}
        assert tried.error(twice) > tried.bound, f"{name} times 2"
    coarse: dict[str, Any] = {
        name: through_8_bits(x) if is_float(x) else x for name, x in tried.given.items()
    }
    weights = {name: through_8_bits(x) for name, x in tried.weights.items()}
    assert tried.error(weights, coarse) > tried.bound, "8 bits"


def test_rounded_results_have_few_bits_and_views_stay_views() -> None:
    x = torch.tensor([1.0, 1 / 3, 1e300], dtype=torch.float64, requires_grad=True)
    with Rounded(torch.bfloat16):
        y = x * 1.0
        view = y.detach()[1:]
        y.sum().backward()
        view.mul_(3.0)
    low = y.detach().bfloat16().double()
    assert torch.equal(y[:2].detach(), low[:2])
    assert view.data_ptr() == y.data_ptr() + y.element_size()
    assert y[1] == torch.tensor(1 / 3).bfloat16().double().mul(3).bfloat16().double()
    assert y[2] == 3e300  # beyond bfloat16
    assert x.grad is not None
    assert torch.equal(x.grad, torch.ones(3, dtype=torch.float64))
