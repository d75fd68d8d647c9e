"""Mixtures of experts and their routing, against transformers."""

import numpy as np
import pytest
import torch
from flax import nnx
from transformers import GptOssConfig, Llama4TextConfig, MixtralConfig, Qwen2MoeConfig
from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP
from transformers.models.llama4.modeling_llama4 import Llama4TextMoe
from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock
from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.parity.comparison import error
from attention_bridge.weights import transfer
from parity_tests.helpers.built import each_mirror

DIM, FFN, SHARED, EXPERTS, CHOSEN = 10, 7, 9, 5, 2
SIZES = {"hidden_size": DIM, "num_experts_per_tok": CHOSEN}
BOUND = 8 * 2.0**-24 * np.sqrt(FFN + DIM)


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def mixtral():
    """Softmax over the selected experts; gate and up projections are stacked in one tensor."""
    config = MixtralConfig(**SIZES, intermediate_size=FFN, num_local_experts=EXPERTS)
    return MixtralSparseMoeBlock(config), {}, {}


def qwen():
    """Routing weights that do not sum to 1, and a shared expert with a gate."""
    sizes = {"moe_intermediate_size": FFN, "shared_expert_intermediate_size": SHARED, "num_experts": EXPERTS}
    block = Qwen2MoeSparseMoeBlock(Qwen2MoeConfig(**SIZES, **sizes, norm_topk_prob=False))
    return block, {"shared_dim": SHARED, "shared_gate": True}, {"normalised": False}


def gpt_oss():
    """Biases everywhere, and clamped experts; gate and up projections alternate in one tensor."""
    config = GptOssConfig(**SIZES, intermediate_size=FFN, num_local_experts=EXPERTS)
    return GptOssMLP(config), {"bias": True, "limit": 7.0}, {}


def llama4():
    """Sigmoid weights that multiply the inputs of the experts, and a shared expert of the same size."""
    config = Llama4TextConfig(**SIZES, intermediate_size=FFN, num_local_experts=EXPERTS)
    return (
        Llama4TextMoe(config),
        {"shared_dim": FFN, "scales_input": True},
        {"normalised": False, "biased": False},
    )


def ours_of(theirs):
    """The weights of a transformers block under this package's names."""
    state = {name: numpy(x) for name, x in theirs.state_dict().items()}
    found = {}
    for name, x in state.items():
        if name.startswith(("gate.", "router.")):
            found[f"router.{name.rpartition('.')[-1]}"] = x
        elif name.startswith("shared_expert."):
            found[f"shared.{name.removeprefix('shared_expert.')}"] = x
        elif name == "shared_expert_gate.weight":
            found["shared_gate.weight"] = x
    clamped = "experts.gate_up_proj_bias" in state
    for n in range(EXPERTS):
        both, down = state["experts.gate_up_proj"][n], state["experts.down_proj"][n]
        if isinstance(theirs, Llama4TextMoe):  # (in, out)
            both, down = both.T, down.T
        parts = (both[:, ::2].T, both[:, 1::2].T) if clamped else np.split(both, 2)
        found |= {f"experts.{n}.{part}_proj.weight": x for part, x in zip(("gate", "up"), parts, strict=True)}
        found[f"experts.{n}.down_proj.weight"] = down.T if clamped else down
        if clamped:
            bias = state["experts.gate_up_proj_bias"][n]
            found |= {f"experts.{n}.gate_proj.bias": bias[::2], f"experts.{n}.up_proj.bias": bias[1::2]}
            found[f"experts.{n}.down_proj.bias"] = state["experts.down_proj_bias"][n]
    return {name: np.ascontiguousarray(x) for name, x in found.items()}


def run(mirror, weights, arguments, routing, x):
    """The output of this package's experts with these weights."""
    sizes = {"embed_dim": DIM, "ffn_dim": FFN, "num_experts": EXPERTS}
    name = "SigmoidRouting" if "biased" in routing else "SoftmaxRouting"
    chosen = Part(name, {"num_chosen": CHOSEN, **routing})
    part = Part("MixtureOfExperts", {**sizes, "routing": chosen, **arguments})
    made = transfer(weights, build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)}))
    return numpy(made(mirror.array(x)))


@pytest.mark.parametrize("made", [mixtral, qwen, gpt_oss, llama4])
@each_mirror
def test_experts_equal_those_of_transformers(mirror, made, rng):
    theirs, arguments, routing = made()
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.normal_(0.0, 1.5)
        x = (2 * rng.standard_normal((3, 6, DIM))).astype(np.float32)
        result = theirs(torch.from_numpy(x))
    expected = numpy(result[0] if isinstance(result, tuple) else result).reshape(x.shape)
    weights = ours_of(theirs)
    assert error(run(mirror, weights, arguments, routing, x), expected) <= BOUND
    if made is gpt_oss:  # these inputs exceed the limit
        assert error(run(mirror, weights, {**arguments, "limit": 1e6}, routing, x), expected) > 1000 * BOUND
    wrong = {**routing, "normalised": not routing.get("normalised", True)}
    assert error(run(mirror, weights, arguments, wrong, x), expected) > 1000 * BOUND
