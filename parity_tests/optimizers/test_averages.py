"""`AveragedModel` in optax, and averages that move between frameworks."""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch.optim.swa_utils import (
    AveragedModel,
    get_ema_avg_fn,
    get_ema_multi_avg_fn,
    get_swa_avg_fn,
    get_swa_multi_avg_fn,
)

from attention_bridge.errors import InputError
from attention_bridge.optimizers import optimizer_like, optimizer_state_to_optax, optimizer_state_to_torch
from attention_bridge.parity.run import on_platform
from attention_bridge.weights import transfer
from jax_attention import feed_forward as jax_feed_forward
from torch_attention import feed_forward as torch_feed_forward

STEPS, HALF = 6, 3
# A step rounds about five values.
BOUND = STEPS * 5 * 2.0**-53
AVERAGES: dict[str, dict[str, Any]] = {
    "ema": {"multi_avg_fn": get_ema_multi_avg_fn(0.8)},
    "ema of one tensor": {"avg_fn": get_ema_avg_fn(0.3)},
    "swa": {},
    "swa of one tensor": {"avg_fn": get_swa_avg_fn()},
    "swa of all": {"multi_avg_fn": get_swa_multi_avg_fn()},
}


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with on_platform("cpu", float64=True):
        yield


def model_of(rng: np.random.Generator) -> Any:
    model = torch_feed_forward.FeedForward(6, 10, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(tuple(parameter.shape))))
    return model


def params_of(model: torch.nn.Module) -> Any:
    target = jax_feed_forward.FeedForward(6, 10, rngs=nnx.Rngs(0), param_dtype="float64")
    return nnx.state(transfer(model, target), nnx.Param)


def distance(params: Any, model: torch.nn.Module) -> float:
    found = transfer(params, model.state_dict())
    theirs = {name: x.detach() for name, x in model.named_parameters()}
    return max(float((found[n] - x).abs().max() / x.abs().max()) for n, x in theirs.items())


@pytest.mark.parametrize("name", AVERAGES)
def test_averages_are_equal_wherever_they_are_taken(name: str, rng: np.random.Generator) -> None:
    model, *models = (model_of(rng) for _ in range(STEPS + 1))
    averaged = AveragedModel(model, **AVERAGES[name])
    rule = optimizer_like(averaged)
    update, params = jax.jit(rule.update), params_of(model)
    state = optimizer_state_to_optax(averaged, model, rule, params)
    assert jax.tree.all(jax.tree.map(np.array_equal, state, rule.init(params)))
    moved_state = state
    for number, each in enumerate(models):
        found, state = update(params_of(each), state)
        averaged.update_parameters(each)
        assert distance(found, averaged.module) <= BOUND
        assert distance(params_of(each), averaged.module) > 1e9 * BOUND or number == 0
        if number + 1 == HALF:
            moved_state = optimizer_state_to_optax(averaged, model, rule, params)
            back = AveragedModel(model, **AVERAGES[name])
            assert optimizer_state_to_torch(state, params, back, model) is back
        if number >= HALF:
            moved, moved_state = update(params_of(each), moved_state)
            back.update_parameters(each)
    assert distance(moved, averaged.module) <= BOUND
    assert distance(params_of(back.module), averaged.module) <= BOUND
    assert int(back.n_averaged) == int(averaged.n_averaged) == STEPS


def test_averages_survive_a_round_trip_bit_for_bit(rng: np.random.Generator) -> None:
    model = model_of(rng)
    averaged, back = (AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9)) for _ in range(2))
    for _ in range(3):
        averaged.update_parameters(model_of(rng))
    params = params_of(model)
    state = optimizer_state_to_optax(averaged, model, optimizer_like(averaged), params)
    optimizer_state_to_torch(state, params, back, model)
    for name, x in averaged.state_dict().items():
        assert back.state_dict()[name].numpy().tobytes() == x.numpy().tobytes()
        assert not torch.equal(x, AveragedModel(model).state_dict()[name])


def test_incremental_update_is_the_same_average(rng: np.random.Generator) -> None:
    first, second = params_of(model_of(rng)), params_of(model_of(rng))
    rule = optimizer_like(AveragedModel(model_of(rng), multi_avg_fn=get_ema_multi_avg_fn(0.8)))
    _, state = rule.update(first, rule.init(second))
    found, _ = jax.jit(rule.update)(second, state)
    apart = jax.tree.map(
        lambda x, y: float(abs(x - y).max()), found, optax.incremental_update(second, first, 0.2)
    )
    assert max(jax.tree.leaves(apart)) <= BOUND * 10  # the values are below 10


def test_unsupported_averages_raise_one_sentence(rng: np.random.Generator) -> None:
    model = model_of(rng)
    params = params_of(model)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8))
    buffered = torch.nn.Sequential(model)
    buffered.register_buffer("scale", torch.ones(3))
    refused = (
        (lambda: optimizer_like(AveragedModel(model, avg_fn=lambda old, new, n: new)), "but got <lambda>"),
        (
            lambda: optimizer_like(AveragedModel(buffered, use_buffers=True)),
            "use_buffers=True has no equivalent",
        ),
        (lambda: optimizer_like(averaged, max_norm=1.0), "max_norm is for optimizers, but got 1.0"),
        (
            lambda: optimizer_state_to_torch(optax.ema(0.8).init(params), params, averaged, model),
            "the average of optax.ema starts at zero",
        ),
        (
            lambda: optimizer_state_to_optax(averaged, model, optax.adam(0.1), params),
            "optimizer_like(averaged_model), but got tuple",
        ),
        (
            lambda: optimizer_state_to_optax(
                averaged, torch.nn.Linear(2, 3), optimizer_like(averaged), params
            ),
            "but bias has shape None in it and (3,) in model",
        ),
        (
            lambda: optimizer_state_to_optax(
                averaged, model, optimizer_like(averaged), params, scheduler=torch.nn.ReLU()
            ),
            "scheduler is for optimizers, but got ReLU",
        ),
    )
    for call, text in refused:
        with pytest.raises(InputError) as error:
            call()
        assert text in str(error.value)
        assert "\n" not in str(error.value)
