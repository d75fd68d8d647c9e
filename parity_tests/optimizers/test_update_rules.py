"""RMSprop, Lion, Adafactor and Muon in optax, step by step, and runs that move between frameworks."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx
from torch.optim import lr_scheduler
from transformers.optimization import Adafactor, AdafactorSchedule

from attention_bridge.errors import InputError
from attention_bridge.optimizers import optimizer_like, optimizer_state_to_optax, optimizer_state_to_torch
from attention_bridge.optimizers.adafactor import torch_adafactor
from attention_bridge.optimizers.matrices import matrices_of
from attention_bridge.optimizers.names import Route
from attention_bridge.parity.run import on_platform
from attention_bridge.weights import Layout, transfer
from attention_bridge.weights.rule import Rule
from jax_attention import feed_forward as jax_feed_forward
from parity_tests.helpers.lion import Lion
from torch_attention import feed_forward as torch_feed_forward

STEPS, HALF = 10, 5
# A step rounds about 20 values and takes means of up to 60 elements, and the rounding errors of all steps add up.
BOUNDS = {dtype: STEPS * 30 * float(np.finfo(dtype).eps) / 2 for dtype in ("float64", "float32")}

Arrays = dict[str, np.ndarray]


def matrices(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [x for x in model.parameters() if x.ndim == 2]


def vectors(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [x for x in model.parameters() if x.ndim == 1]


class Case(NamedTuple):
    """An optimizer of a model, or several, and the schedule of each."""

    make: Callable[[torch.nn.Module], Any]
    schedule: Callable[[Any], Any] | None = None

    def begin(self, model: torch.nn.Module) -> tuple[Any, Any]:
        made = self.make(model)
        return made, None if self.schedule is None else self.schedule(made)


CASES = {
    "rmsprop": Case(lambda m: torch.optim.RMSprop(m.parameters(), lr=0.01, weight_decay=0.1, eps=1e-3)),
    "rmsprop centered": Case(
        lambda m: torch.optim.RMSprop(
            m.parameters(), lr=0.01, alpha=0.8, centered=True, momentum=0.9, maximize=True
        ),
        lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=14),
    ),
    "lion": Case(
        lambda m: Lion(m.parameters(), lr=0.01, weight_decay=0.2),
        lambda o: lr_scheduler.OneCycleLR(o, 0.05, total_steps=14),
    ),
    "adafactor": Case(
        lambda m: torch.optim.Adafactor(m.parameters(), lr=0.4, weight_decay=0.1, maximize=True),
        lambda o: lr_scheduler.StepLR(o, 4, 0.5),
    ),
    "transformers adafactor": Case(lambda m: Adafactor(m.parameters(), weight_decay=0.1, clip_threshold=0.7)),
    "transformers adafactor averaged": Case(
        lambda m: Adafactor(m.parameters(), lr=0.1, relative_step=False, scale_parameter=False, beta1=0.9),
        lambda o: lr_scheduler.ExponentialLR(o, 0.8),
    ),
    "muon": Case(
        lambda m: [
            torch.optim.Muon(matrices(m), lr=0.05),
            torch.optim.AdamW(vectors(m), lr=0.01, weight_decay=0.3),
        ]
    ),
    "muon of moonshot": Case(
        lambda m: [
            torch.optim.Muon(matrices(m), lr=0.05, nesterov=False, adjust_lr_fn="match_rms_adamw"),
            torch.optim.SGD(vectors(m), lr=0.1, momentum=0.9),
        ],
        lambda each: [lr_scheduler.OneCycleLR(each[0], 0.1, total_steps=14), None],
    ),
}
MUON = ("muon", "muon of moonshot")


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    with on_platform("cpu", float64=True):
        yield


def distance(ours: Arrays, theirs: Arrays) -> float:
    """The largest difference, relative to the largest value of the same tensor."""
    return max(float(np.max(np.abs(ours[n] - theirs[n])) / np.max(np.abs(theirs[n]))) for n in theirs)


def module(dtype: str) -> torch.nn.Module:
    """Matrices with more rows than columns, and with fewer; weights in float32, so that they are equal in any dtype."""
    model, rng = torch_feed_forward.FeedForward(6, 10), np.random.default_rng(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.from_numpy(rng.standard_normal(tuple(parameter.shape))))
    return model.to(getattr(torch, dtype))


def params_of(model: torch.nn.Module, dtype: str) -> Any:
    target = jax_feed_forward.FeedForward(6, 10, rngs=nnx.Rngs(0), param_dtype=dtype)
    return nnx.state(transfer(model, target), nnx.Param)


def gradients(dtype: str) -> list[Arrays]:
    """Random gradients whose scale varies from step to step."""
    rng = np.random.default_rng(7)
    return [
        {
            name: (size * rng.standard_normal(tuple(x.shape))).astype("float32").astype(dtype)
            for name, x in module(dtype).named_parameters()
        }
        for size in np.exp(rng.standard_normal(STEPS))
    ]


def step_torch(model: torch.nn.Module, made: Any, schedulers: Any, given: Arrays) -> Arrays:
    for name, parameter in model.named_parameters():
        parameter.grad = torch.from_numpy(given[name].copy())
    for optimizer in made if isinstance(made, list) else [made]:
        optimizer.step()
    for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
        if scheduler is not None:
            scheduler.step()
    return {name: x.detach().numpy().copy() for name, x in model.named_parameters()}


def bits(made: Any) -> list[Any]:
    """The states of all optimizers, bit for bit."""

    def exact(x: Any) -> Any:
        return (x.dtype, tuple(x.shape), x.numpy().tobytes()) if isinstance(x, torch.Tensor) else x

    return [
        {n: {kind: exact(x) for kind, x in held.items()} for n, held in each.state_dict()["state"].items()}
        for each in (made if isinstance(made, list) else [made])
    ]


class Runs(NamedTuple):
    """The weights after each step in one framework, and after all if the run moves to the other halfway."""

    torch: list[Arrays]
    jax: list[Arrays]
    torch_to_jax: Arrays
    jax_to_torch: Arrays
    forgotten: Arrays
    states: list[Any]
    round_trips: list[Any]


@cache
def runs(name: str, dtype: str) -> Runs:
    case, model, given = CASES[name], module(dtype), gradients(dtype)
    made, schedulers = case.begin(model)
    steps = None if schedulers is None else STEPS
    rule = optimizer_like(made, model=model, scheduler=schedulers, steps=steps)
    params = params_of(model, dtype)
    state = optimizer_state_to_optax(made, model, rule, params, scheduler=schedulers)
    assert jax.tree.all(jax.tree.map(np.array_equal, state, rule.init(params)))

    @jax.jit
    def step(params: Any, state: Any, gradient: Any) -> tuple[Any, Any]:
        updates, state = rule.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    def weights(params: Any) -> Arrays:
        return {n: x.numpy().copy() for n, x in transfer(params, model.state_dict()).items()}

    def go_on(params: Any, state: Any) -> Arrays:
        for gradient in given[HALF:]:
            params, state = step(params, state, transfer(gradient, params))
        return weights(params)

    in_jax, half, half_state = [], params, state
    for number, gradient in enumerate(given):
        params, state = step(params, state, transfer(gradient, params))
        in_jax.append(weights(params))
        if number + 1 == HALF:
            half, half_state = params, state

    in_torch = [step_torch(model, made, schedulers, gradient) for gradient in given[:HALF]]
    there = transfer(model, params)
    moved = optimizer_state_to_optax(made, model, rule, there, scheduler=schedulers)
    again, its = case.begin(other := module(dtype))
    optimizer_state_to_torch(moved, there, again, other, scheduler=its)
    states, round_trips = bits(made), bits(again)
    lost = jax.tree.map(lambda x: jnp.zeros_like(x) if x.dtype == dtype else x, moved)
    torch_to_jax, forgotten = go_on(there, moved), go_on(there, lost)
    in_torch += [step_torch(model, made, schedulers, gradient) for gradient in given[HALF:]]

    transfer(half, other)
    made, schedulers = case.begin(other)
    optimizer_state_to_torch(half_state, half, made, other, scheduler=schedulers)
    jax_to_torch = [step_torch(other, made, schedulers, gradient) for gradient in given[HALF:]][-1]
    return Runs(in_torch, in_jax, torch_to_jax, jax_to_torch, forgotten, states, round_trips)


def exact_muon(name: str) -> list[Arrays]:
    """The matrices after each step of Muon in float64, from its definition; PyTorch iterates in bfloat16."""
    model = module("float64")
    (muon, _), schedulers = CASES[name].begin(model)
    weights = {n: x.detach().numpy().copy() for n, x in model.named_parameters() if x.ndim == 2}
    averages = {n: np.zeros_like(x) for n, x in weights.items()}
    (settings,) = muon.param_groups
    after = []
    for given in gradients("float64"):
        kept, lr = settings["momentum"], settings["lr"]
        for n, weight in weights.items():
            averages[n] = kept * averages[n] + (1 - kept) * given[n]
            x = (1 - kept) * given[n] + kept * averages[n] if settings["nesterov"] else averages[n]
            x = x / np.linalg.norm(x)
            for _ in range(5):
                gram = x @ x.T
                x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
            rows, columns = weight.shape
            shape = max(1, rows / columns) ** 0.5
            if settings["adjust_lr_fn"] == "match_rms_adamw":
                shape = 0.2 * max(rows, columns) ** 0.5
            weights[n] = (1 - lr * settings["weight_decay"]) * weight - lr * shape * x
        if schedulers is not None:
            muon.step()
            schedulers[0].step()
        after.append(dict(weights))
    return after


class TestSteps:
    @pytest.mark.parametrize("step", [1, STEPS])
    @pytest.mark.parametrize("name", [name for name in CASES if name not in MUON])
    def test_steps_equal_those_of_pytorch(self, name: str, step: int) -> None:
        reference = runs(name, "float64").torch[step - 1]
        apart = distance(runs(name, "float64").jax[step - 1], reference)
        print(f"{name} float64: {apart:.1e} of {BOUNDS['float64']:.1e}")
        assert apart <= BOUNDS["float64"]

    @pytest.mark.parametrize("name", [name for name in CASES if name not in MUON])
    def test_float32_steps_are_near_the_float64_reference(self, name: str) -> None:
        with jax.enable_x64(False):
            ours = runs(name, "float32").jax
        assert {x.dtype.name for x in ours[0].values()} == {"float32"}
        for step in (1, STEPS):
            apart = distance(ours[step - 1], runs(name, "float64").torch[step - 1])
            print(f"{name} float32: {apart:.1e} of {BOUNDS['float32']:.1e}")
            assert apart <= BOUNDS["float32"]

    @pytest.mark.parametrize("name", MUON)
    def test_muon_is_as_precise_as_pytorchs_bfloat16(self, name: str) -> None:
        exact, found = exact_muon(name), runs(name, "float64")
        for step in (1, STEPS):
            theirs = distance(found.torch[step - 1], exact[step - 1])
            ours = distance(found.jax[step - 1], exact[step - 1])
            print(f"{name}: {ours:.1e}, PyTorch {theirs:.1e}")
            assert 0 < theirs < 0.1
            assert ours <= 2 * theirs

    @pytest.mark.parametrize(
        ("name", "rule"),
        [
            ("rmsprop", optax.chain(optax.add_decayed_weights(0.1), optax.rmsprop(0.01, 0.99, 1e-3))),
            (
                "transformers adafactor",
                optax.adafactor(0.01, min_dim_size_to_factor=1, weight_decay_rate=0.1),
            ),
        ],
    )
    def test_optimizers_of_optax_differ(self, name: str, rule: Any) -> None:
        """The place of eps, the clipping threshold, the weight decay without a learning rate."""
        params = params_of(module("float64"), "float64")
        updates, _ = jax.jit(rule.update)(
            transfer(gradients("float64")[0], params), rule.init(params), params
        )
        after = transfer(optax.apply_updates(params, updates), module("float64").state_dict())
        found = {n: x.numpy() for n, x in after.items()}
        assert distance(found, runs(name, "float64").torch[0]) > 1e6 * BOUNDS["float64"]

    def test_lion_of_optax_takes_the_same_steps(self) -> None:
        model = module("float64")
        params, given = params_of(model, "float64"), gradients("float64")[0]
        rules = [
            optimizer_like(Lion(model.parameters(), lr=0.01, weight_decay=0.2)),
            optax.lion(0.01, weight_decay=0.2),
            optax.lion(0.01),  # another default of the weight decay
        ]
        ours, same, other = (
            {n: x.numpy() for n, x in transfer(updates, model.state_dict()).items()}
            for updates, _ in (
                rule.update(transfer(given, params), rule.init(params), params) for rule in rules
            )
        )
        assert distance(ours, same) <= BOUNDS["float64"]
        assert distance(ours, other) > 1e9 * BOUNDS["float64"]


class TestMoves:
    @pytest.mark.parametrize("name", CASES)
    def test_runs_are_equal_wherever_they_are_trained(self, name: str) -> None:
        found = runs(name, "float64")
        bound = BOUNDS["float64"]
        if name in MUON:  # rounding to bfloat16 may differ in its last bit
            bound = 2 * max(distance(x, y) for x, y in zip(found.torch, exact_muon(name), strict=True))
        for moved in (found.torch_to_jax, found.jax_to_torch):
            apart = distance(moved, found.torch[-1])
            print(f"{name}: {apart:.1e} of {bound:.1e}")
            assert apart <= bound
        assert distance(found.forgotten, found.torch[-1]) > 2 * bound

    @pytest.mark.parametrize("name", CASES)
    def test_states_survive_a_round_trip_bit_for_bit(self, name: str) -> None:
        found = runs(name, "float64")
        assert found.round_trips == found.states
        assert sum(map(len, found.states)) == 4

    def test_nnx_optimizer_takes_and_returns_factored_moments(self) -> None:
        model, given = module("float64"), gradients("float64")
        made = torch.optim.Adafactor([model.up_proj.weight], lr=0.4)
        step_torch(model, made, None, given[0])
        target = jax_feed_forward.FeedForward(6, 10, rngs=nnx.Rngs(0), param_dtype="float64")
        mirror = transfer(model, target)
        rule = optimizer_like(made, model=model)
        ours = nnx.Optimizer(mirror, rule, wrt=nnx.Param)
        params = nnx.state(mirror, nnx.Param)
        nnx.update(ours.opt_state, nnx.state(optimizer_state_to_optax(made, model, rule, params)))
        ours.update(mirror, transfer(given[1], params))
        after, back = nnx.state(mirror, nnx.Param), torch.optim.Adafactor([model.up_proj.weight])
        optimizer_state_to_torch(ours.opt_state, after, back, model)
        expected = step_torch(model, made, None, given[1])
        found = {n: x.numpy() for n, x in transfer(after, model.state_dict()).items()}
        assert distance(found, expected) <= BOUNDS["float64"]
        for parameter, held in made.state.items():
            for kind, moment in held.items():
                torch.testing.assert_close(back.state[parameter][kind], moment, rtol=1e-14, atol=0.0)

    def test_rmsprop_of_optax_goes_on_in_pytorch(self) -> None:
        """With eps outside the square root, optax takes PyTorch's steps."""
        model, given = module("float64"), gradients("float64")
        rule = optax.rmsprop(0.01, 0.9, 1e-3, eps_in_sqrt=False, centered=True)
        params = params_of(model, "float64")
        state, update = rule.init(params), jax.jit(rule.update)
        for gradient in given[:2]:
            updates, state = update(transfer(gradient, params), state, params)
            params = optax.apply_updates(params, updates)
        other = transfer(params, module("float64"))
        made, moved = (
            torch.optim.RMSprop(m.parameters(), 0.01, 0.9, 1e-3, centered=True) for m in (model, other)
        )
        for gradient in given[:2]:
            step_torch(model, made, None, gradient)
        optimizer_state_to_torch(state, params, moved, other)
        expected = step_torch(model, made, None, given[2])
        assert distance(step_torch(other, moved, None, given[2]), expected) <= BOUNDS["float64"]
        fresh = transfer(params, module("float64"))
        forgotten = torch.optim.RMSprop(fresh.parameters(), 0.01, 0.9, 1e-3, centered=True)
        assert distance(step_torch(fresh, forgotten, None, given[2]), expected) > 1e9 * BOUNDS["float64"]


class TestMatrices:
    SHAPES = {f"{x}_proj.weight": (12, 8) for x in "qkv"} | {"out_proj.weight": (8, 12)}

    def test_rows_and_columns_are_those_of_pytorch(self) -> None:
        shapes = {"up.weight": (7, 5), "token_embedding.weight": (11, 5), "up.bias": (7,)}
        found = matrices_of(shapes, dict.fromkeys(shapes, "Muon"), Route("torch_attention", "jax_attention"))
        assert found["up.kernel"] == ((7, 5), (1,), (0,))  # a kernel is the transpose of a weight
        assert found["token_embedding.embedding"] == ((11, 5), (0,), (1,))
        assert found["up.bias"] is None

    def test_heads_are_axes_of_rows_or_columns(self) -> None:
        route = Route("torch_attention", "flax.nnx.mha", {"h": 3})
        found = matrices_of(self.SHAPES, dict.fromkeys(self.SHAPES, "Muon"), route)
        assert found["query.kernel"] == ((12, 8), (1, 2), (0,))  # embed heads head_dim
        assert found["out.kernel"] == ((8, 12), (2,), (0, 1))  # heads head_dim embed

    def test_stacked_matrices_are_factored_as_in_pytorch(self, rng: np.random.Generator) -> None:
        layout = Layout("stacked", rules=(Rule("{path}stack", "{path}stack", "n a b -> b n a"),))
        found = matrices_of({"stack": (3, 7, 5)}, {"stack": "Adafactor"}, Route(layout, "torch_attention"))
        assert found["stack"] == ((3, 7, 5), (2,), (0,))
        start, given = rng.standard_normal((2, 3, 7, 5))
        parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
        parameter.grad = torch.from_numpy(given)
        torch.optim.Adafactor([parameter]).step()
        rule = torch_adafactor(0.01, found, decay=-0.8, eps=(None, 1e-3), clipping=1.0, weight_decay=0.0)
        params = {"stack": jnp.asarray(start.transpose(2, 0, 1))}
        updates, _ = jax.jit(rule.update)({"stack": given.transpose(2, 0, 1)}, rule.init(params), params)
        ours = {"stack": start + np.asarray(updates["stack"]).transpose(1, 2, 0)}
        assert distance(ours, {"stack": parameter.detach().numpy()}) <= BOUNDS["float64"]

    def test_mixed_rows_and_columns_raise(self) -> None:
        layout = Layout("flat", rules=(Rule("{path}flat", "{path}flat", "a b -> (a b)"),))
        with pytest.raises(
            InputError, match="rows and columns of each matrix, but flat mixes the two of flat"
        ):
            matrices_of({"flat": (7, 5)}, {"flat": "Adafactor"}, Route(layout, "torch_attention"))

    def test_packed_matrices_raise(self) -> None:
        with pytest.raises(InputError) as error:
            matrices_of(
                {f"{x}_proj.weight": (8, 8) for x in ("q", "k", "v", "out")},
                {"q_proj.weight": "torch.optim.Muon"},
                Route("torch_attention", "torch.mha"),
            )
        assert "in_proj_weight is made of q_proj.weight, k_proj.weight, v_proj.weight" in str(error.value)

    def test_parts_of_packed_matrices_raise(self) -> None:
        packed = torch.nn.MultiheadAttention(6, 3)
        for optimizer in (
            torch.optim.Adafactor(packed.parameters()),
            torch.optim.Muon([packed.in_proj_weight]),
        ):
            with pytest.raises(
                InputError, match=r"_proj.kernel is made of 36 of the 108 elements of in_proj_weight"
            ):
                optimizer_like(optimizer, model=packed)


class DecoupledLion(Lion):
    """A Lion whose weight decay is divided by the first learning rate."""

    decoupled_wd = True


DecoupledLion.__name__ = "Lion"


def cautious(model: torch.nn.Module) -> Any:
    optimizer = Lion(model.parameters())
    optimizer.param_groups[0]["cautious_factor"] = 0.5
    return optimizer


def from_optax(model: torch.nn.Module, rule: Any, made: Any) -> Any:
    params = params_of(model, "float64")
    return optimizer_state_to_torch(rule.init(params), params, made, model)


REFUSALS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "differentiable": (
        lambda m: optimizer_like(torch.optim.RMSprop(m.parameters(), differentiable=True)),
        "torch.optim.RMSprop with differentiable=True has no equivalent in optax",
    ),
    "no model": (
        lambda m: optimizer_like(torch.optim.Adafactor(m.parameters())),
        "model is needed to match the rows and columns of torch.optim.Adafactor's matrices",
    ),
    "shared parameters": (
        lambda m: optimizer_like(
            [torch.optim.SGD(m.parameters()), torch.optim.Adam(m.parameters())], model=m
        ),
        "each parameter belongs to one optimizer, but two of torch_optimizer share a parameter",
    ),
    "no optimizers": (
        lambda m: optimizer_like([], model=m),
        "torch_optimizer is an optimizer or a list of them, but got an empty one",
    ),
    "one scheduler for two": (
        lambda m: optimizer_like(
            made := CASES["muon"].make(m), model=m, steps=3, scheduler=lr_scheduler.StepLR(made[0], 2)
        ),
        "scheduler has one scheduler or None for each optimizer, but got 1 for 2 optimizers",
    ),
    "relative step": (
        lambda m: optimizer_like(
            made := Adafactor(m.parameters()), model=m, steps=3, scheduler=AdafactorSchedule(made)
        ),
        "transformers.Adafactor with relative_step=True has its own learning rate: give no scheduler",
    ),
    "other Lion": (
        lambda m: optimizer_like(cautious(m)),
        "Lion has the settings lr, betas and weight_decay, but parity_tests.helpers.lion.Lion also has cautious_factor",
    ),
    "decoupled Lion": (
        lambda m: optimizer_like(DecoupledLion(m.parameters())),
        "Lion with decoupled_weight_decay=True has no equivalent in optax: set it to False and divide weight_decay by",
    ),
    "momentum of optax": (
        lambda m: from_optax(
            m, optax.rmsprop(0.1, momentum=0.9), torch.optim.RMSprop(m.parameters(), momentum=0.9)
        ),
        "optax.rmsprop keeps its momentum times the learning rate, PyTorch's RMSprop without it",
    ),
    "Adafactor of optax": (
        lambda m: from_optax(m, optax.adafactor(0.1), torch.optim.Adafactor(m.parameters())),
        "optax.adafactor factors other axes than PyTorch's Adafactor: build the transformation with optimizer_like",
    ),
    "Muon of optax": (
        lambda m: from_optax(m, optax.contrib.muon(0.1), CASES["muon"].make(m)),
        "optax.contrib.muon counts steps, which PyTorch's Muon does not: build the transformation with optimizer_like",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_unsupported_settings_raise_one_sentence(name: str) -> None:
    call, text = REFUSALS[name]
    with pytest.raises(InputError) as error:
        call(module("float64"))
    assert text in str(error.value)
    assert "\n" not in str(error.value)
