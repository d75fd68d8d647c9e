"""Every mechanism of the catalogue through every proof."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.catalogue import CATALOGUE, DTYPES, Mechanism, select
from attention_bridge.parity.comparison import error
from attention_bridge.parity.instances import (
    build,
    cases,
    inputs,
    jax_module,
    jax_with,
    parameters,
    torch_module,
    with_full_masks,
)
from attention_bridge.parity.proof import prove, prove_case
from attention_bridge.parity.run import Arrays, is_float, named_outputs, on_platform, run_jax, run_torch
from attention_bridge.weights import transfer
from parity_tests.helpers.share import share

each_mechanism = pytest.mark.parametrize("mechanism", CATALOGUE, ids=lambda mechanism: mechanism.name)


def those(condition: Callable[[Mechanism], bool]) -> Any:
    """Parametrise a test over the mechanisms that satisfy `condition`."""
    found = [mechanism for mechanism in CATALOGUE if condition(mechanism)]
    return pytest.mark.parametrize("mechanism", found, ids=lambda mechanism: mechanism.name)


each_with_masks = those(lambda mechanism: bool(mechanism.masks))
each_with_a_keep_mask = those(lambda mechanism: bool(mechanism.keep))
each_causal = those(lambda mechanism: mechanism.causal)


def torch_inputs(given: Arrays) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(x) for name, x in given.items()}


def jax_inputs(given: Arrays) -> dict[str, jax.Array]:
    return {name: jnp.asarray(x) for name, x in given.items()}


def in_float32(mechanism: Mechanism, case: str) -> Arrays:
    return {name: x.astype(np.float32) if is_float(x) else x for name, x in inputs(mechanism, case).items()}


def outputs(mechanism: Mechanism, given: Arrays) -> Iterator[Arrays]:
    """The outputs of both mirrors; they reuse the functions that the proof has compiled."""
    full = {**with_full_masks(mechanism, given), **mechanism.options(True)}
    yield run_torch(torch_module(mechanism, "float32"), full).outputs
    with on_platform("cpu", float64=False):
        yield run_jax(jax_module(mechanism, "float32"), full).outputs


@each_mechanism
def test_outputs_weights_and_gradients_equal_the_oracle_under_every_mask(mechanism: Mechanism) -> None:
    verdict = prove(mechanism, "float32")
    print(verdict)
    assert verdict.ok, "\n".join(verdict.failures)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@each_mechanism
def test_outputs_weights_and_gradients_equal_the_oracle_in_every_dtype(
    mechanism: Mechanism, dtype: str
) -> None:
    if dtype in mechanism.dtypes:
        verdict = prove(mechanism, dtype)
        print(verdict)
        assert verdict.ok, "\n".join(verdict.failures)


@each_mechanism
def test_only_bfloat16_may_be_left_out(mechanism: Mechanism) -> None:
    assert {"float32", "float64"} <= set(mechanism.dtypes) <= set(DTYPES)


@pytest.mark.slow
@each_with_masks
def test_mask_of_any_rank_equals_the_full_mask(mechanism: Mechanism) -> None:
    for case in set(cases(mechanism, "float32")) & {"query key", "batch query key", "padding"}:
        given = in_float32(mechanism, case)
        full = with_full_masks(mechanism, given)
        for module, arrays in ((torch_module, torch_inputs), (jax_module, jax_inputs)):
            run = module(mechanism, "float32")
            short, long = (named_outputs(run(**arrays(x), **mechanism.options(True))) for x in (given, full))
            for name, x in short.items():
                assert np.array_equal(np.asarray(x.tolist()), np.asarray(long[name].tolist())), name


@pytest.mark.slow
@each_mechanism
def test_output_and_gradients_are_the_same_without_weights(mechanism: Mechanism) -> None:
    case = "empty row" if mechanism.masks else "none"
    found = prove_case(mechanism, case, "float32", need_weights=False)
    assert all(difference.ok for difference in found), "\n".join(map(str, found))


@pytest.mark.slow
@those(
    lambda mechanism: (
        mechanism.family in ("basics", "self", "cross", "models", "heads", "positions", "patterns")
    )
)
def test_masked_rows_and_keys_have_weights_of_exactly_zero(mechanism: Mechanism) -> None:
    given = in_float32(mechanism, "empty row")
    visible = {"self_weights": given.get("self_mask"), "cross_weights": given.get("memory_mask")}
    for found in outputs(mechanism, given):
        for name in (name for name in found if "weights" in name):
            hidden = ~np.asarray(visible.get(name, given.get("mask")))
            hidden = hidden[:, 0] if found[name].ndim == 3 else hidden
            assert hidden.any(), name
            of_keys = found[name][..., : hidden.shape[-1]]  # further columns are not keys of the sequence
            assert not of_keys[hidden].any()
            assert np.isfinite(found[name]).all()


# PyTorch's compiler takes up to half a minute for each: the commit chooses those outside the survey.
COMPILED = share([mechanism.name for mechanism in CATALOGUE], 4)


@pytest.mark.parametrize(
    "mechanism",
    [
        pytest.param(
            each, id=each.name, marks=pytest.mark.slow if each.name in COMPILED else pytest.mark.survey
        )
        for each in CATALOGUE
    ],
)
def test_compiled_equals_eager_in_torch(mechanism: Mechanism, as_shipped: None) -> None:
    given, module = of_every_mask(mechanism), torch_module(mechanism, "float32")
    for need_weights in (True, False):
        compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
        ours = named_outputs(compiled(**torch_inputs(given), **mechanism.options(need_weights)))
        for name, x in named_outputs(
            module(**torch_inputs(given), **mechanism.options(need_weights))
        ).items():
            assert error(ours[name].detach().numpy(), x.detach().numpy()) < 1e-6, name
        torch.compiler.reset()


@pytest.mark.slow
@each_mechanism
def test_compiled_equals_eager_in_jax(mechanism: Mechanism, as_shipped: None) -> None:
    given, options = of_every_mask(mechanism), mechanism.options(True)
    eager = named_outputs(jax_module(mechanism, "float32")(**jax_inputs(given), **options))
    graphdef, state = nnx.split(jax_module(mechanism, "float32"))
    run = jax.jit(lambda state, given: named_outputs(nnx.merge(graphdef, state)(**given, **options)))
    for name, x in run(state, jax_inputs(given)).items():
        assert error(np.asarray(x), np.asarray(eager[name])) < 2e-6, name


def of_every_mask(mechanism: Mechanism) -> Arrays:
    """Inputs with a mask of all axes, if the mechanism takes one."""
    case = "batch heads query key"
    return in_float32(mechanism, case if case in cases(mechanism, "float32") else "none")


@each_mechanism
def test_weights_survive_torch_to_jax_to_torch_bit_for_bit(mechanism: Mechanism) -> None:
    source = torch_module(mechanism, "bfloat16")
    through = jax_with(mechanism.module, source, {"param_dtype": "bfloat16"})
    target = build(mechanism.module, "torch_attention", {"dtype": torch.bfloat16})
    transfer(through, target)
    for name, parameter in source.state_dict().items():
        assert torch.equal(parameter.view(torch.uint16), target.state_dict()[name].view(torch.uint16)), name


@pytest.mark.slow
@each_mechanism
def test_training_mode_without_dropout_equals_evaluation(mechanism: Mechanism) -> None:
    given = in_float32(mechanism, "none")
    ours = transfer(
        torch_module(mechanism, "float32"), build(mechanism.module, "torch_attention", {})
    ).train()
    theirs = jax_with(mechanism.module, torch_module(mechanism, "float32"), {})
    theirs.train()
    assert torch.equal(
        ours(**torch_inputs(given))[0], torch_module(mechanism, "float32")(**torch_inputs(given))[0]
    )
    assert jnp.array_equal(
        theirs(**jax_inputs(given))[0], jax_module(mechanism, "float32")(**jax_inputs(given))[0]
    )


@pytest.mark.slow
@each_with_a_keep_mask
def test_dropout_is_random_in_training_and_off_in_evaluation(mechanism: Mechanism) -> None:
    given = in_float32(mechanism, "none")
    ours = build(mechanism.module, "torch_attention", {"dropout": 0.5})
    theirs = jax_with(mechanism.module, ours, {"dropout": 0.5})
    for module, arrays in ((ours, torch_inputs(given)), (theirs, jax_inputs(given))):
        module.train()
        first, second = (np.asarray(module(**arrays)[0].tolist()) for _ in range(2))
        assert not np.array_equal(first, second)
        module.eval()
        first, second = (np.asarray(module(**arrays)[0].tolist()) for _ in range(2))
        assert np.array_equal(first, second)


@pytest.mark.slow
@each_causal
def test_output_does_not_depend_on_later_inputs(mechanism: Mechanism) -> None:
    given = in_float32(mechanism, "none")
    name = "x" if "x" in given else "tokens"
    length = given[name].shape[1]
    changed = {**given, name: given[name].copy()}
    later = given[name][:, length // 2 :] + 1
    changed[name][:, length // 2 :] = later if name == "x" else later % mechanism.sizes["vocab"]
    for before, after in zip(outputs(mechanism, given), outputs(mechanism, changed), strict=True):
        before, after = before["output"], after["output"]
        assert np.array_equal(before[:, : length // 2], after[:, : length // 2])
        assert not np.array_equal(before[:, length // 2 :], after[:, length // 2 :])


@pytest.mark.slow
@each_with_masks
def test_output_does_not_depend_on_masked_inputs(mechanism: Mechanism) -> None:
    given = in_float32(mechanism, "padding")
    name = next(name for name in ("memory", "value", "x", "tokens", "key") if name in given)
    hidden = ~next(x for key, x in given.items() if key in ("mask", "memory_mask"))[:, 0, 0]
    hidden &= np.arange(hidden.shape[1]) > 0
    changed = {**given, name: given[name].copy()}
    changed[name][hidden] = given[name][0, 0]
    assert not np.array_equal(changed[name], given[name])
    for before, after in zip(outputs(mechanism, given), outputs(mechanism, changed), strict=True):
        before, after = before["output"], after["output"]
        own = name in ("x", "tokens") and before.shape[1] == hidden.shape[1]  # a query may attend to itself
        visible = ~hidden if own else np.ones(before.shape[:2], bool)
        assert np.array_equal(before[visible], after[visible])


@pytest.mark.parametrize("name", ["MultiHeadSelfAttention", "BasicAttention"])
def test_vmap_over_a_batch_axis_equals_a_loop(name: str) -> None:
    (mechanism,) = select([name])
    given = in_float32(mechanism, "none")
    stacked = {key: np.stack([x, x[::-1] + 1.0, 2.0 * x]) for key, x in given.items()}
    ours, theirs = torch_module(mechanism, "float32"), jax_module(mechanism, "float32")
    mapped = torch.func.vmap(lambda x: ours(**x).output)(torch_inputs(stacked))
    graphdef, state = nnx.split(theirs)
    also_mapped = jax.vmap(lambda x: nnx.merge(graphdef, state)(**x).output)(jax_inputs(stacked))
    for i in range(3):
        expected = ours(**torch_inputs({key: x[i] for key, x in stacked.items()})).output.detach().numpy()
        assert error(mapped[i].detach().numpy(), expected) < 1e-6
        assert error(np.asarray(also_mapped[i]), expected) < 2e-6


@pytest.mark.parametrize("dtype", DTYPES)
def test_outputs_have_the_dtype_of_the_input_and_weights_at_least_float32(dtype: str) -> None:
    (mechanism,) = select(["MultiHeadSelfAttention"])
    x = inputs(mechanism, "none")["x"]
    wide = "float64" if dtype == "float64" else "float32"
    with on_platform("cpu", float64=dtype == "float64"):
        for need_weights in (True, False):
            ours = torch_module(mechanism, dtype)(
                torch.from_numpy(x).to(getattr(torch, dtype)), need_weights=need_weights
            )
            theirs = jax_module(mechanism, dtype)(jnp.asarray(x, dtype), need_weights=need_weights)
            assert str(ours.output.dtype) == f"torch.{dtype}"
            assert str(theirs.output.dtype) == dtype
            if need_weights:
                assert ours.weights.dtype == getattr(torch, wide)
                assert theirs.weights.dtype == wide
            else:
                assert ours.weights is None
                assert theirs.weights is None


@each_mechanism
def test_axes_that_meet_have_different_sizes(mechanism: Mechanism) -> None:
    axes = {axis for each in (*mechanism.inputs.values(), *mechanism.masks.values()) for axis in each}
    assert len({mechanism.sizes[axis] for axis in axes}) == len(axes)
    for name, x in {**parameters(mechanism), **inputs(mechanism, "none")}.items():
        assert np.unique(x).size >= min(x.size, 2 if x.dtype == bool else 3), f"{name} is constant"
