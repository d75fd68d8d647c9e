"""Options of recurrent layers in both mirrors, against the float64 reference: rates, smallest steps, biases."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from attention_bridge.catalogue import Part
from attention_bridge.oracles import delta as oracles
from attention_bridge.parity.comparison import error
from attention_bridge.parity.instances import build, jax_with

DELTA = {"num_heads": 2, "num_value_heads": 4, "head_dim": 3, "value_dim": 5, "eps": 0.01}
MAMBA = {"num_heads": 4, "head_dim": 3, "state_dim": 5, "num_groups": 2, "eps": 0.01}
SCALES = (0.7, 1.3, 0.6, 1.7, 0.9)
# Class, reference, options of both, options of the class alone.
OPTIONS = {
    "rates up to two": ("GatedDeltaNet", oracles.gated_delta_net, {**DELTA, "beta_scale": 2.0}, {}),
    "large steps": ("Mamba2", oracles.mamba2, {**MAMBA, "min_step": 0.7}, {}),
    "biases": ("Mamba2", oracles.mamba2, MAMBA, {"bias": True}),
    "bias of the output alone": ("Mamba2", oracles.mamba2, MAMBA, {"out_bias": True}),
    "norm before the gate": ("Mamba2", oracles.mamba2, {**MAMBA, "norm_order": "before_gate"}, {}),
    "no norm": ("Mamba2", oracles.mamba2, {**MAMBA, "norm_order": None}, {}),
    "factors on the parts": ("Mamba2", oracles.mamba2, {**MAMBA, "part_scales": SCALES}, {}),
    "gates with biases": ("GatedShortConvolution", oracles.gated_short_convolution, {}, {"bias": True}),
    "wide convolution": ("GatedShortConvolution", oracles.gated_short_convolution, {}, {"conv_width": 5}),
}
MASK = np.array([[True] * 6, [False, False, True, True, True, True]])[:, None, None]


@pytest.mark.parametrize("mirror", ["torch", "jax"])
@pytest.mark.parametrize("option", OPTIONS)
def test_option_equals_the_reference_with_padding(option, mirror, rng):
    name, oracle, shared, own = OPTIONS[option]
    part = Part(name, {"embed_dim": 6, **shared, **own})
    layer = build(part, "torch_attention", {})
    with torch.no_grad():
        for x in layer.parameters():
            x.copy_(torch.from_numpy(0.5 * rng.standard_normal(tuple(x.shape))))
    x = rng.standard_normal((2, 6, 6)).astype(np.float32)
    weights = {key: value.double().numpy() for key, value in layer.state_dict().items()}
    expected, *_, maps = oracle(weights, x.astype(np.float64), MASK, **shared)
    if mirror == "torch":
        found = layer.eval()(torch.from_numpy(x), torch.from_numpy(MASK), need_weights=True)
        output, given = (each.detach().numpy() for each in (found.output, found.weights))
    else:
        found = jax_with(part, layer, {})(jnp.asarray(x), jnp.asarray(MASK), need_weights=True)
        output, given = np.asarray(found.output), np.asarray(found.weights)
    there = MASK[:, 0, 0]
    assert error(output[there], expected[there]) < 1e-5
    assert error(given, maps) < 1e-5


@pytest.mark.parametrize("mirror", ["torch", "jax"])
def test_padding_changes_no_result_of_projections_with_biases(mirror, rng):
    part = Part("Mamba2", {"embed_dim": 6, **MAMBA, "bias": True})
    layer = build(part, "torch_attention", {}).eval()
    with torch.no_grad():
        layer.in_proj.bias.fill_(0.5)
    x = rng.standard_normal((2, 6, 6)).astype(np.float32)
    if mirror == "torch":
        padded = layer(torch.from_numpy(x), torch.from_numpy(MASK)).output[1, 2:].detach().numpy()
        alone = layer(torch.from_numpy(x[1:, 2:])).output[0].detach().numpy()
    else:
        model = jax_with(part, layer, {})
        padded = np.asarray(model(jnp.asarray(x), jnp.asarray(MASK)).output[1, 2:])
        alone = np.asarray(model(jnp.asarray(x[1:, 2:])).output[0])
    assert error(padded, alone) < 1e-5
