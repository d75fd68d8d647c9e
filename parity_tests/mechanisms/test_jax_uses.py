"""Every mechanism under the options, exports, transformations and empty inputs of JAX users."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from jax import export

import jax_attention
import torch_attention
from attention_bridge.catalogue import CATALOGUE, select
from attention_bridge.pages.uses import jax_uses
from attention_bridge.pages.uses.jax_uses import USES, YES, runner, shapes, symbolic
from attention_bridge.parity.instances import jax_module, torch_module
from attention_bridge.parity.run import named_outputs

# The shape checks of these tests accept only an `int` as size, not a symbolic size.
pytestmark = pytest.mark.usefixtures("as_shipped")
every_mechanism = pytest.mark.parametrize("mechanism", CATALOGUE, ids=lambda each: each.name)
FIXED_GRID = "the grid is fixed when the layer is built; only the batch is symbolic"
# Uses that are not supported, and why; all others are "yes".
EXCEPTIONS = {
    ("jax.export, symbolic sizes", "DecomposedPositionAttention"): FIXED_GRID,
    ("nnx.vmap and nnx.scan over layers", "LuongAttention-dot"): "it has no parameters to stack",
    ("nnx.vmap and nnx.scan over layers", "ScaledDotProductAttention"): "it has no parameters to stack",
    ("nnx.vmap and nnx.scan over layers", "SinusoidalEmbedding"): "it has no parameters to stack",
    ("nnx.vmap and nnx.scan over layers", "Encoder"): "it reads tokens, so layers cannot be chained",
    ("nnx.vmap and nnx.scan over layers", "Decoder"): "it reads tokens, so layers cannot be chained",
}


def trace(mechanism, sizes=None, dtype="float32"):
    """The shapes of the results of a call with weights, masks and positions."""
    run, parameters = runner(mechanism, {"need_weights": True} if mechanism.weights else {}, dtype)
    return jax.eval_shape(run, parameters, shapes(mechanism, sizes, dtype=dtype))


@every_mechanism
def test_layers_are_the_frameworks_own(mechanism):
    layers = nnx.Linear, nnx.Conv, nnx.Embed, nnx.LayerNorm, nnx.RMSNorm
    module = jax_module(mechanism, "float32")
    found = {type(each) for _, each in nnx.iter_modules(module) if isinstance(each, layers)}
    assert found <= set(layers)


@every_mechanism
def test_ranks_and_dtypes_are_never_promoted_silently(mechanism):
    with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
        assert trace(mechanism, dtype="bfloat16")


@every_mechanism
def test_empty_batch_and_length_give_empty_outputs(mechanism):
    axes = symbolic(mechanism)
    output = trace(mechanism, dict.fromkeys(axes, 0))["output"]
    assert (output.dtype, output.size) == (jnp.float32, 0)


@pytest.mark.parametrize(
    "name", ["DeltaNet", "SigmoidAttention", "NativeSparseAttention", "ShiftedWindowAttention"]
)
def test_symbolic_length_is_traced(name):
    (mechanism,) = select([name])
    output = trace(mechanism, symbolic(mechanism))["output"]
    assert not isinstance(output.shape[1], int)


def test_required_length_limit_is_reported():
    (mechanism,) = select(["LinformerAttention"])
    batch, length = export.symbolic_shape("batch, length")
    with pytest.raises(ValueError, match="x must be at most length=7 long, got length"):
        trace(mechanism, {"batch": batch, "query": length})


@every_mechanism
def test_pytorch_accepts_empty_batch_and_length(mechanism):
    empty = shapes(mechanism, dict.fromkeys(symbolic(mechanism), 0))
    given = {name: torch.zeros(x.shape, dtype=getattr(torch, str(x.dtype))) for name, x in empty.items()}
    assert named_outputs(torch_module(mechanism, "float32")(**given))["output"].numel() == 0


@pytest.mark.parametrize("package", [jax_attention, torch_attention], ids=["jax", "torch"])
def test_masks_of_two_and_four_axes_broadcast_over_leading_axes(package):
    four = package.length_mask(jnp.asarray([3, 1]) if package is jax_attention else torch.tensor([3, 1]), 3)
    with jax.numpy_rank_promotion("raise"):
        both = package.and_masks(package.causal_mask(3), four)
    expected = np.tril(np.ones((3, 3), bool)) & (np.arange(3) < np.array([[3], [1]]))[:, None, None]
    np.testing.assert_array_equal(np.asarray(both), expected)


@pytest.mark.survey
@pytest.mark.parametrize("use", USES)
@every_mechanism
def test_each_use_works_or_says_why_not(mechanism, use):
    assert USES[use](mechanism) == EXCEPTIONS.get((use, mechanism.name), YES)


@pytest.mark.survey
def test_unsupported_use_raises_one_sentence():
    failing = jax_uses.tried(partial(jax_uses.traced, mode=lambda: jax.numpy_rank_promotion("never")))
    (mechanism,) = select(["SelfAttention"])
    assert "\n" not in failing(mechanism)
    assert failing(mechanism) != YES
