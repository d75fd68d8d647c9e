"""Experts without gates, and the learned activation xIELU: NumPy references, and equality with transformers."""

import numpy as np
import pytest
import torch
from flax import nnx
from transformers.activations import XIELUActivation

from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.oracles.common import linear, scope
from attention_bridge.weights import transfer
from parity_tests.helpers.built import each_mirror

EMBED, FFN, SHARED, LATENT, EXPERTS, CHOSEN, SCALE = 6, 7, 9, 5, 8, 3, 2.5
GROUPS, CHOSEN_GROUPS = 4, 2


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def difference(one, other):
    return np.abs(numpy(one) - other).max() / np.abs(other).max()


def experts(latent_dim=None, *, bias=False):
    rule = {
        "num_chosen": CHOSEN,
        "num_groups": GROUPS,
        "num_chosen_groups": CHOSEN_GROUPS,
        "routed_scale": SCALE,
    }
    sizes = {"embed_dim": EMBED, "ffn_dim": FFN, "num_experts": EXPERTS, "shared_dim": SHARED, "bias": bias}
    routing = Part("SigmoidRouting", rule)
    return Part("PlainMixtureOfExperts", {**sizes, "routing": routing, "latent_dim": latent_dim})


def weights_of(part):
    torch.manual_seed(0)
    return {
        name: torch.randn_like(x).numpy()
        for name, x in build(part, "torch_attention", {}).state_dict().items()
    }


def network(p, name, x):
    each = scope(p, name)
    return linear(each, "down_proj", np.maximum(linear(each, "up_proj", x), 0) ** 2)


def mixed(p, x, latent):
    """The output in float64, position by position, with the chosen experts alone."""
    found = network(p, "shared", x)
    for at in np.ndindex(x.shape[:2]):
        score = 1 / (1 + np.exp(-(p["router.weight"] @ x[at])))
        choice = (score + p["router_bias"]).reshape(GROUPS, -1)
        best = np.argsort(-np.sort(choice, -1)[:, -2:].sum(-1))[:CHOSEN_GROUPS]
        open_ones = np.full(choice.shape, -np.inf)
        open_ones[best] = choice[best]
        chosen = np.argsort(-open_ones.reshape(-1))[:CHOSEN]
        inner = linear(p, "latent_down_proj", x[at]) if latent else x[at]
        total = sum(
            score[e] / score[chosen].sum() * SCALE * network(p, f"experts.{e}", inner) for e in chosen
        )
        found[at] += linear(p, "latent_up_proj", total) if latent else total
    return found


@pytest.mark.parametrize(("latent_dim", "bias"), [(None, False), (LATENT, False), (LATENT, True)])
@each_mirror
def test_plain_experts_equal_a_numpy_reference(mirror, latent_dim, bias, rng):
    part = experts(latent_dim, bias=bias)
    weights, x = weights_of(part), rng.standard_normal((2, 4, EMBED)).astype(np.float32)
    made = transfer(dict(weights), build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)}))
    p = {name: each.astype(np.float64) for name, each in weights.items()}
    assert difference(made(mirror.array(x)), mixed(p, x.astype(np.float64), latent_dim)) < 1e-5


@each_mirror
def test_plain_experts_that_no_routing_can_choose_are_refused(mirror):
    part = experts()
    part = Part(part.name, {**part.arguments, "num_experts": 6})
    with pytest.raises(ValueError, match="num_experts=6 and num_groups=4"):
        build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)})


@each_mirror
def test_learned_activation_equals_that_of_transformers(mirror, rng):
    part = Part("XIELUFeedForward", {"embed_dim": EMBED, "ffn_dim": FFN})
    made = build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    state = {name: numpy(x) for name, x in build(part, "torch_attention", {}).state_dict().items()}
    theirs = XIELUActivation(dtype=torch.float32)
    assert abs(state["alpha_p"] - theirs.alpha_p.item()) < 1e-4
    assert abs(state["alpha_n"] - theirs.alpha_n.item()) < 1e-4
    with torch.no_grad():
        theirs.alpha_p.fill_(0.7)
        theirs.alpha_n.fill_(-1.3)
        theirs.beta.fill_(0.4)
        theirs.eps.fill_(-0.01)
    named = {"alpha_p": "alpha_p", "alpha_n": "alpha_n", "beta": "beta", "epsilon": "eps"}
    state |= {ours: numpy(getattr(theirs, other)) for ours, other in named.items()}
    state |= {
        name: rng.standard_normal(x.shape).astype(np.float32) for name, x in state.items() if "proj" in name
    }
    x = (3 * rng.standard_normal((2, 5, EMBED))).astype(np.float32)
    hidden = (
        theirs.double()(torch.from_numpy(x.astype(np.float64) @ state["up_proj.weight"].T)).detach().numpy()
    )
    assert (hidden.min() < 0) & (hidden.max() > 1)
    found = transfer(state, made)(mirror.array(x))
    assert difference(found, hidden @ state["down_proj.weight"].T) < 1e-5
