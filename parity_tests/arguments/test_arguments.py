"""`checked` leaves valid arguments, signatures and the frameworks' own uses of modules unchanged."""

import copy
import inspect
import pickle
from fractions import Fraction

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import jax_attention.models
import torch_attention
import torch_attention.models

pytestmark = pytest.mark.usefixtures("as_shipped")

FACTORY = {"torch": dict, "jax": lambda: {"rngs": nnx.Rngs(0)}}
MIRRORS = {"torch": torch_attention, "jax": jax_attention}
X = np.linspace(-1, 1, 48, dtype=np.float32).reshape(2, 3, 8)


@pytest.fixture(params=MIRRORS)
def mirror(request):
    return request.param


@pytest.fixture
def made(mirror):
    """A function that builds a class of the mirror."""
    return lambda name, *args, **kwargs: getattr(MIRRORS[mirror], name)(*args, **kwargs, **FACTORY[mirror]())


@pytest.fixture
def array(mirror):
    """A function that makes an array of the framework."""
    return torch.from_numpy if mirror == "torch" else jnp.asarray


@pytest.mark.parametrize("size", [np.int64(8), np.int32(8), np.uint8(8)])
def test_numpy_integers_are_accepted_as_sizes(made, size):
    layer = made("MultiHeadSelfAttention", size, np.int64(2), dropout=np.float32(0))
    assert type(layer.embed_dim) is int
    assert type(layer.head_dim) is int


@pytest.mark.parametrize(
    "options", [{"dropout": 0}, {"dropout": -0.0}, {"bias": np.False_}, {"scale": Fraction(1, 2)}]
)
def test_values_equivalent_to_the_right_type_are_accepted(made, array, options):
    output, _ = made("MultiHeadSelfAttention", 8, 2, **options)(array(X), need_weights=np.True_)
    assert output.shape == (2, 3, 8)


def test_zero_and_none_are_accepted_where_valid(mirror, made):
    package = MIRRORS[mirror]
    assert made("StreamingAttention", 8, 2, num_sinks=0, window=2).num_sinks == 0
    assert made("ShiftedWindowAttention", 8, 2, window_size=2, shift=0) is not None
    assert made("QKNormAttention", 8, 2, 1, head_dim=None, scale=None, window=None, eps=0).window is None
    config = package.models.EncoderConfig(
        vocab_size=11, embed_dim=8, num_heads=2, num_layers=0, ffn_dim=8, max_len=7, num_types=0
    )
    assert config.num_layers == config.num_types == config.first_position == 0
    assert package.causal_mask(0).shape == (0, 0)


@pytest.mark.parametrize("sizes", [(4, 6), [4, 6], np.array([4, 6]), range(4, 7, 2)])
def test_sizes_of_axes_may_be_any_sequence(mirror, sizes):
    factory = FACTORY[mirror]()
    patches = MIRRORS[mirror].PatchEmbedding(sizes, (2, 3), 5, 7, **factory)
    config = MIRRORS[mirror].models.VisionTransformerConfig(sizes, [2, 3], 5, 8, 2, 1, 9)
    assert config.image_size == (4, 6)
    assert hash(config) == hash(copy.deepcopy(config))
    assert patches is not None


def test_numpy_arrays_are_converted_as_by_jnp():
    layer = jax_attention.MultiHeadSelfAttention(8, 2, rngs=nnx.Rngs(0))
    mask = np.tri(3, dtype=bool)
    found, right = layer(X.astype(np.float64), mask), layer(jnp.asarray(X), jnp.asarray(mask))
    assert found.output.dtype == jnp.float32
    assert (found.output == right.output).all()


@pytest.mark.parametrize("name", ["BasicAttention", "PerformerAttention", "WindowAttention"])
def test_signature_docstring_and_annotations_are_kept(mirror, name):
    made = getattr(MIRRORS[mirror], name)
    for function in (made.__init__, made.forward if mirror == "torch" else made.__call__):
        bare = function.__wrapped__
        assert inspect.signature(function) == inspect.signature(bare)
        assert function.__doc__ == bare.__doc__
        assert function.__annotations__ == bare.__annotations__
        assert function.__qualname__ == bare.__qualname__


@pytest.mark.parametrize("wrong", [8.0, -8, "8"])
def test_subclass_is_checked_when_it_calls_its_base(mirror, wrong):
    class Wider(MIRRORS[mirror].SelfAttention):
        def __init__(self, size, **factory):
            super().__init__(size, **factory)

    assert Wider(8, **FACTORY[mirror]()) is not None
    with pytest.raises((TypeError, ValueError), match=r"^embed_dim must be"):
        Wider(wrong, **FACTORY[mirror]())


def test_modules_and_configurations_can_be_copied_and_pickled(mirror, made):
    config = MIRRORS[mirror].models.SigmoidRouting(2, routed_scale=np.float32(100))
    assert pickle.loads(pickle.dumps(config)) == config
    assert type(config.routed_scale) is float
    layer = MIRRORS[mirror].models.Part("rms_norm", {"dim": 4})
    assert pickle.loads(pickle.dumps(layer)) == copy.deepcopy(layer) == layer
    assert hash(pickle.loads(pickle.dumps(layer))) == hash(layer)
    layer = made("SelfAttention", 8)
    assert type(copy.deepcopy(layer)) is type(layer)
    function = MIRRORS[mirror].causal_mask
    assert pickle.loads(pickle.dumps(function)) is function
    if mirror == "torch":
        assert type(pickle.loads(pickle.dumps(layer))) is type(layer)


@pytest.mark.slow  # PyTorch cannot compile shape checks
def test_torch_builds_on_meta_compiles_in_one_graph_and_exports():
    with torch.device("meta"):
        assert torch_attention.MultiHeadSelfAttention(8, 2).q_proj.weight.is_meta
    layer = torch_attention.MultiHeadSelfAttention(8, 2, position=torch_attention.RotaryEmbedding(4)).eval()
    x, mask = torch.from_numpy(X), torch.ones(3, 3, dtype=torch.bool).tril()
    right = layer(x, mask, need_weights=False).output
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x, mask, need_weights=False).output, right)
    with pytest.raises(TypeError, match=r"^need_weights must be True or False, got 'no'"):
        layer(x, mask, need_weights="no")
    exported = torch.export.export(layer, (x, mask), {"need_weights": False})
    assert torch.equal(exported.module()(x, mask, need_weights=False).output, right)


def test_jax_traces_constructors_and_calls():
    def layer(rngs):
        return jax_attention.MultiHeadSelfAttention(8, 2, rngs=rngs)

    shapes = nnx.eval_shape(lambda: layer(nnx.Rngs(0)))
    assert shapes.q_proj.kernel.shape == (8, 8)
    assert nnx.jit(layer)(nnx.Rngs(0)).q_proj.kernel.shape == (8, 8)
    many = nnx.vmap(layer, in_axes=0)(nnx.Rngs(0).split(3))
    assert many.q_proj.kernel.shape == (3, 8, 8)
    graph, state = nnx.split(layer(nnx.Rngs(0)))
    found = jax.jit(lambda state, x: nnx.merge(graph, state)(x, need_weights=False).output)(
        state, jnp.asarray(X)
    )
    assert found.shape == X.shape
    assert jax.eval_shape(jax_attention.padding_mask, jnp.zeros((2, 3), int), 0).shape == (2, 1, 1, 3)


def test_symbolic_sizes_are_accepted():
    (length,) = jax.export.symbolic_shape("length")
    x = jax.ShapeDtypeStruct((1, length, 8), jnp.float32)
    exported = jax.export.export(jax.jit(lambda x: jax_attention.causal_mask(x.shape[1]) & (x[0, 0, 0] > 0)))(
        x
    )
    assert exported.out_avals[0].shape == (length, length)
