"""`transfer` between two modules of one's own: every type of layer both ways, alignment by names, and refusals."""

import equinox
import haiku
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen, nnx
from torch import nn
from transformers.pytorch_utils import Conv1D

from attention_bridge.errors import ConversionError, InputError
from attention_bridge.weights import plan, transfer
from torch_attention.models import FeedForward

X = np.random.default_rng(0).standard_normal((2, 9, 6)).astype(np.float32)
IMAGE = np.random.default_rng(1).standard_normal((2, 7, 8, 6)).astype(np.float32)
TOKENS = np.array([[1, 5, 2], [0, 3, 6]])


def rngs():
    return nnx.Rngs(0)


def holder(kind, **parts):
    """A module of a framework that holds these parts."""
    made = kind()
    for name, part in parts.items():
        setattr(made, name, part)
    return made


def randomised(module, seed=0):
    """The module with random tensors, also in norms and statistics."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.3)
    return module.eval()


def equal(theirs, ours, to_theirs, to_ours):
    with torch.no_grad():
        expected = to_theirs(theirs).numpy()
    found = np.asarray(to_ours(ours))
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


def first(x):
    """The channels first, as PyTorch has them."""
    return torch.from_numpy(np.moveaxis(x, -1, 1).copy())


def last(x):
    return x.movedim(1, -1)


LAYERS = {
    "Linear": (lambda: nn.Linear(6, 4), lambda: nnx.Linear(6, 4, rngs=rngs()), X, None),
    "LinearGeneral": (
        lambda: nn.Linear(6, 8),
        lambda: nnx.LinearGeneral(6, (2, 4), rngs=rngs()),
        X,
        lambda y: y.reshape(2, 9, 8),
    ),
    "LayerNorm": (lambda: nn.LayerNorm(6), lambda: nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs()), X, None),
    "RMSNorm": (lambda: nn.RMSNorm(6, eps=1e-5), lambda: nnx.RMSNorm(6, epsilon=1e-5, rngs=rngs()), X, None),
    "Conv1D": (lambda: Conv1D(6, 6), lambda: nnx.Linear(6, 6, rngs=rngs()), X, None),
}
CHANNELS = {
    "GroupNorm": (lambda: nn.GroupNorm(3, 6), lambda: nnx.GroupNorm(6, 3, epsilon=1e-5, rngs=rngs()), IMAGE),
    "BatchNorm": (
        lambda: nn.BatchNorm2d(6),
        lambda: nnx.BatchNorm(6, use_running_average=True, epsilon=1e-5, rngs=rngs()),
        IMAGE,
    ),
    "Conv1d": (lambda: nn.Conv1d(6, 5, 3), lambda: nnx.Conv(6, 5, 3, padding="VALID", rngs=rngs()), X),
    "Conv2d": (
        lambda: nn.Conv2d(6, 4, (3, 2), groups=2),
        lambda: nnx.Conv(6, 4, (3, 2), padding="VALID", feature_group_count=2, rngs=rngs()),
        IMAGE,
    ),
    "Conv3d": (
        lambda: nn.Conv3d(6, 5, (2, 3, 1)),
        lambda: nnx.Conv(6, 5, (2, 3, 1), padding="VALID", rngs=rngs()),
        IMAGE[:, None].repeat(4, 1) * np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1, 1),
    ),
    "ConvTranspose1d": (
        lambda: nn.ConvTranspose1d(6, 5, 3, stride=2),
        lambda: nnx.ConvTranspose(6, 5, (3,), strides=(2,), padding="VALID", rngs=rngs()),
        X,
    ),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(6, 4, (2, 3)),
        lambda: nnx.ConvTranspose(6, 4, (2, 3), padding="VALID", rngs=rngs()),
        IMAGE,
    ),
    "ConvTranspose2d, transposed kernel": (
        lambda: nn.ConvTranspose2d(6, 4, (2, 3)),
        lambda: nnx.ConvTranspose(6, 4, (2, 3), padding="VALID", transpose_kernel=True, rngs=rngs()),
        IMAGE,
    ),
}


def back_and_forth(make_theirs, make_ours):
    """Two modules after a transfer, which is proven to return the same bytes."""
    theirs = randomised(holder(nn.Module, part=make_theirs()))
    ours = transfer(theirs, holder(nnx.Module, part=make_ours()))
    again = transfer(ours, randomised(holder(nn.Module, part=make_theirs()), seed=9))
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    return theirs.part, ours.part


@pytest.mark.parametrize("name", LAYERS)
def test_layers_carry_their_weights(name):
    make_theirs, make_ours, x, shaped = LAYERS[name]
    theirs, ours = back_and_forth(make_theirs, make_ours)
    equal(theirs, ours, lambda m: m(torch.from_numpy(x)), lambda m: (shaped or np.asarray)(m(jnp.asarray(x))))


@pytest.mark.parametrize("name", CHANNELS)
def test_layers_of_channels_carry_their_weights(name):
    make_theirs, make_ours, x = CHANNELS[name]
    theirs, ours = back_and_forth(make_theirs, make_ours)
    equal(theirs, ours, lambda m: last(m(first(x))), lambda m: m(jnp.asarray(x)))


def test_embeddings_carry_their_weights():
    theirs, ours = back_and_forth(lambda: nn.Embedding(7, 4), lambda: nnx.Embed(7, 4, rngs=rngs()))
    equal(theirs, ours, lambda m: m(torch.from_numpy(TOKENS)), lambda m: m(jnp.asarray(TOKENS)))


@pytest.mark.parametrize("sizes", [{}, {"kdim": 5, "vdim": 5}, {"bias": False}])
def test_attention_carries_its_weights(sizes):
    memory = X[..., :5] if "kdim" in sizes else X
    options = {"use_bias": sizes.get("bias", True)}
    if "kdim" in sizes:
        options["in_kv_features"] = 5
    theirs, ours = back_and_forth(
        lambda: nn.MultiheadAttention(6, 2, batch_first=True, **sizes),
        lambda: nnx.MultiHeadAttention(2, 6, decode=False, rngs=rngs(), **options),
    )
    given = torch.from_numpy(memory.copy())
    equal(
        theirs,
        ours,
        lambda m: m(torch.from_numpy(X), given, given)[0],
        lambda m: m(jnp.asarray(X), jnp.asarray(memory)),
    )


CELLS = {
    "GRU": (lambda: nn.GRUCell(6, 4), lambda: nnx.GRUCell(6, 4, rngs=rngs())),
    "LSTM": (lambda: nn.LSTMCell(6, 4), lambda: nnx.LSTMCell(6, 4, rngs=rngs())),
    "LSTM, joined": (lambda: nn.LSTMCell(6, 4), lambda: nnx.OptimizedLSTMCell(6, 4, rngs=rngs())),
    "simple": (lambda: nn.RNNCell(6, 4), lambda: nnx.SimpleCell(6, 4, rngs=rngs())),
}


@pytest.mark.parametrize("name", CELLS)
def test_recurrent_cells_carry_their_weights(name):
    make_theirs, make_ours = CELLS[name]
    theirs = randomised(holder(nn.Module, part=make_theirs()))
    if name == "GRU":
        theirs.part.bias_hh.data[8:] = 0.0  # Flax's cell has no bias inside the product with the reset gate
    ours = transfer(theirs, holder(nnx.Module, part=make_ours()))
    x, state = X[:, 0], X[:, 1, :4]
    given, carried = torch.from_numpy(x), torch.from_numpy(state.copy())
    if "LSTM" in name:
        equal(
            theirs.part,
            ours.part,
            lambda m: m(given, (carried, 2 * carried))[0],
            lambda m: m((jnp.asarray(2 * state), jnp.asarray(state)), jnp.asarray(x))[1],
        )
    else:
        equal(
            theirs.part,
            ours.part,
            lambda m: m(given, carried),
            lambda m: m(jnp.asarray(state), jnp.asarray(x))[1],
        )
    again = transfer(ours, holder(nn.Module, part=make_theirs()))
    once = transfer(again, holder(nnx.Module, part=make_ours()))
    for name, array in arrays(ours).items():
        assert np.array_equal(array, arrays(once)[name]), name


def arrays(module):
    """The arrays of an NNX module by path."""
    state = nnx.to_flat_state(nnx.state(module, nnx.Not(nnx.RngState)))
    return {path: np.asarray(variable.get_value()) for path, variable in state}


def test_bias_inside_the_reset_gate_has_no_place_in_flax():
    theirs = randomised(holder(nn.Module, part=nn.GRUCell(6, 4)))
    report = plan(theirs, holder(nnx.Module, part=nnx.GRUCell(6, 4, rngs=rngs())))
    assert [(fault.name, fault.fault) for fault in report.faults] == [("part.bias_hh", "unexpected")]


class Attention(nn.Module):
    def __init__(self, names):
        super().__init__()
        for name in names:
            setattr(self, name, nn.Linear(6, 6))


class JaxAttention(nnx.Module):
    def __init__(self, names):
        for name in names:
            setattr(self, name, nnx.Linear(6, 6, rngs=rngs()))


def block(attention, norms):
    mlp = nn.Sequential(nn.Linear(6, 11), nn.GELU(), nn.Linear(11, 6))
    return holder(nn.Module, attn=Attention(attention), mlp=mlp, **{name: nn.LayerNorm(6) for name in norms})


def jax_block(attention, norms):
    made = JaxAttention(attention)
    inner = holder(nnx.Module, fc1=nnx.Linear(6, 11, rngs=rngs()), fc2=nnx.Linear(11, 6, rngs=rngs()))
    parts = {norm: nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs()) for norm in norms}
    return holder(nnx.Module, feed_forward=inner, attention=made, **parts)


def gpt():
    """A model as PyTorch code often spells it, under one more module."""
    body = holder(
        nn.Module,
        wte=nn.Embedding(13, 6),
        wpe=nn.Embedding(9, 6),
        h=nn.ModuleList(block(("q_proj", "k_proj", "v_proj", "o_proj"), ("ln_1", "ln_2")) for _ in range(3)),
        ln_f=nn.LayerNorm(6),
    )
    return randomised(holder(nn.Module, transformer=body))


def jax_gpt():
    """The same model as JAX code often spells it, in another order."""
    return holder(
        nnx.Module,
        final_norm=nnx.LayerNorm(6, epsilon=1e-5, rngs=rngs()),
        blocks=nnx.List([jax_block(("query", "key", "value", "out"), ("norm2", "norm1")) for _ in range(3)]),
        pos_embed=nnx.Embed(9, 6, rngs=rngs()),
        tok_embed=nnx.Embed(13, 6, rngs=rngs()),
    )


def test_models_align_through_wrappers_lists_meanings_and_numbers():
    theirs = gpt()
    report = plan(theirs, jax_gpt())
    report.raise_faults()
    found = {match.target: match.given for match in report.matched}
    assert found["blocks.1.attention.query.kernel"] == ("transformer.h.1.attn.q_proj.weight",)
    assert found["blocks.2.norm2.scale"] == ("transformer.h.2.ln_2.weight",)
    assert found["blocks.0.feed_forward.fc2.bias"] == ("transformer.h.0.mlp.2.bias",)
    assert found["final_norm.scale"] == ("transformer.ln_f.weight",)
    back = transfer(transfer(theirs, jax_gpt()), gpt())
    assert all(torch.equal(x, back.state_dict()[name]) for name, x in theirs.state_dict().items())


def test_what_fits_two_places_is_reported_and_names_decide_it():
    theirs = randomised(Attention(("alpha", "beta", "gamma")))
    ours = JaxAttention(("one", "other", "third"))
    with pytest.raises(ConversionError, match="ambiguous") as error:
        transfer(theirs, ours)
    assert {fault.name for fault in error.value.faults} == {"alpha", "beta", "gamma"}
    assert "one, other, third" in error.value.faults[0].expected
    filled = transfer(theirs, ours, names={"alpha": "third", "beta": "one"})  # the last pair is then alone
    assert np.array_equal(filled.third.kernel.get_value(), theirs.alpha.weight.detach().T)
    assert np.array_equal(filled.other.kernel.get_value(), theirs.gamma.weight.detach().T)


def test_name_that_the_source_does_not_have_is_refused():
    with pytest.raises(InputError, match="'delta'"):
        transfer(Attention(("alpha",)), JaxAttention(("one",)), names={"delta": "one"})


def test_swapped_meanings_are_no_guess():
    """Names that say the opposite of the order decide against the order."""
    theirs = randomised(Attention(("key", "query")))
    filled = transfer(theirs, JaxAttention(("q_proj", "k_proj")))
    assert np.array_equal(filled.q_proj.kernel.get_value(), theirs.query.weight.detach().T)


def test_layers_of_other_shapes_are_missing_and_unexpected():
    report = plan(holder(nn.Module, a=nn.Linear(6, 5)), holder(nnx.Module, b=nnx.Linear(6, 4, rngs=rngs())))
    assert sorted((fault.name, fault.fault) for fault in report.faults) == [
        ("a.bias", "unexpected"),
        ("a.weight", "unexpected"),
        ("b.bias", "missing"),
        ("b.kernel", "missing"),
    ]


def test_equal_names_of_other_shapes_are_a_wrong_shape():
    report = plan(holder(nn.Module, a=nn.Linear(6, 5)), holder(nnx.Module, a=nnx.Linear(6, 4, rngs=rngs())))
    assert [(fault.name, fault.fault) for fault in report.faults] == [
        ("a.kernel", "wrong shape"),
        ("a.bias", "wrong shape"),
    ]


def test_bias_that_the_target_lacks_is_reported():
    ours = holder(nnx.Module, a=nnx.Linear(6, 5, use_bias=False, rngs=rngs()))
    report = plan(holder(nn.Module, a=nn.Linear(6, 5)), ours)
    assert [(fault.name, fault.fault) for fault in report.faults] == [("a.bias", "unexpected")]


def test_own_parameters_and_buffers_keep_their_axes():
    theirs = holder(nn.Module, scale=nn.Parameter(torch.rand(3, 3)), inner=nn.Module())
    theirs.inner.register_buffer("table", torch.rand(3, 2))
    ours = holder(nnx.Module, scale=nnx.Param(jnp.zeros((3, 3))), inner=nnx.Module())
    ours.inner.table = nnx.Variable(jnp.zeros((3, 2)))
    filled = transfer(theirs, ours)
    assert np.array_equal(filled.scale.get_value(), theirs.scale.detach())
    assert np.array_equal(filled.inner.table.get_value(), theirs.inner.table)


def test_parameter_of_ones_own_is_never_the_kernel_of_a_layer():
    theirs = holder(nn.Module, part=holder(nn.Module, weight=nn.Parameter(torch.rand(6, 6))))
    report = plan(theirs, holder(nnx.Module, part=nnx.Linear(6, 6, use_bias=False, rngs=rngs())))
    assert {fault.fault for fault in report.faults} == {"unexpected", "missing"}


def test_output_layer_that_shares_the_embedding_needs_no_place():
    theirs = holder(nn.Module, embed=nn.Embedding(13, 6), head=nn.Linear(6, 13, bias=False))
    theirs.head.weight = theirs.embed.weight
    ours = transfer(theirs, holder(nnx.Module, table=nnx.Embed(13, 6, rngs=rngs())))
    assert np.array_equal(ours.table.embedding.get_value(), theirs.embed.weight.detach())
    back = transfer(ours, randomised(holder(nn.Module, embed=nn.Embedding(13, 6))))
    assert torch.equal(back.embed.weight, theirs.embed.weight)


class JaxLayer(nnx.Module):
    def __init__(self, keys):
        self.norm = nnx.LayerNorm(6, epsilon=1e-5, rngs=keys)
        self.proj = nnx.Linear(6, 6, rngs=keys)
        self.gain = nnx.Param(jnp.zeros(6))


def test_layers_of_a_stack_are_filled_from_a_list():
    layers = [
        holder(nn.Module, norm=nn.LayerNorm(6), proj=nn.Linear(6, 6), gain=nn.Parameter(torch.rand(6)))
        for _ in range(4)
    ]
    theirs = randomised(holder(nn.Module, layers=nn.ModuleList(layers), out=nn.Linear(6, 3)))
    stack = nnx.vmap(lambda key: JaxLayer(nnx.Rngs(key)))(jax.random.split(jax.random.key(0), 4))
    ours = holder(nnx.Module, stack=stack, out=nnx.Linear(6, 3, rngs=rngs()))
    filled = transfer(theirs, ours)
    for number, each in enumerate(layers):
        assert np.array_equal(filled.stack.proj.kernel.get_value()[number], each.proj.weight.detach().T)
        assert np.array_equal(filled.stack.gain.get_value()[number], each.gain.detach())
    before = {name: x.clone() for name, x in theirs.state_dict().items()}
    back = transfer(filled, randomised(theirs, seed=5))
    assert all(torch.equal(x, before[name]) for name, x in back.state_dict().items())


def test_stack_of_another_length_is_reported():
    theirs = holder(nn.Module, layers=nn.ModuleList(nn.Linear(6, 6) for _ in range(3)))
    stack = nnx.vmap(lambda key: nnx.Linear(6, 6, rngs=nnx.Rngs(key)))(jax.random.split(jax.random.key(0), 4))
    report = plan(theirs, holder(nnx.Module, layers=holder(nnx.Module, proj=stack)))
    assert report.faults


def squares(*names):
    return holder(nn.Module, **{name: nn.Linear(6, 6) for name in names})


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (("0", "2", "4"), ("0", "1", "2")),
        (("fc1", "fc2", "fc3"), ("fc0", "fc1", "fc2")),
        (("a2", "a10"), ("b1", "b2")),
    ],
)
def test_numbers_that_count_differently_align_by_rank(given, wanted):
    """Equal names would pair the third layer with the second one, without a fault."""
    theirs = randomised(squares(*given))
    filled = transfer(theirs, JaxAttention(wanted))
    for one, other in zip(given, wanted, strict=True):
        kernel = getattr(filled, other).kernel.get_value()
        assert np.array_equal(kernel, getattr(theirs, one).weight.detach().T), (one, other)


def test_names_may_be_swapped():
    theirs = randomised(squares("alpha", "beta"))
    filled = transfer(theirs, JaxAttention(("alpha", "beta")), names={"alpha": "beta", "beta": "alpha"})
    assert np.array_equal(filled.beta.kernel.get_value(), theirs.alpha.weight.detach().T)


def test_two_modules_with_one_name_are_refused():
    with pytest.raises(InputError, match="'beta' twice"):
        transfer(squares("alpha", "beta"), JaxAttention(("alpha", "beta")), names={"alpha": "beta"})


def test_names_and_layouts_together_are_refused():
    with pytest.raises(InputError, match="without source_layout"):
        transfer(squares("a"), JaxAttention(("b",)), names={"a": "b"}, source_layout="torch_attention")


@pytest.mark.parametrize("wanted", [3, 5])
def test_no_layer_of_a_stack_is_lost(wanted):
    stack = nnx.vmap(lambda key: JaxLayer(nnx.Rngs(key)))(jax.random.split(jax.random.key(0), 4))
    layers = nn.ModuleList(
        holder(nn.Module, norm=nn.LayerNorm(6), proj=nn.Linear(6, 6), gain=nn.Parameter(torch.rand(6)))
        for _ in range(wanted)
    )
    ours, theirs = holder(nnx.Module, layers=stack), holder(nn.Module, layers=layers)
    assert plan(ours, theirs).faults
    assert plan(theirs, ours).faults


def test_shared_kernel_of_the_source_needs_no_place():
    ours = JaxAttention(("first", "second"))
    ours.second.kernel, ours.second.bias = ours.first.kernel, ours.first.bias
    filled = transfer(ours, squares("first"))
    assert np.array_equal(ours.first.kernel.get_value(), filled.first.weight.detach().T)


def test_class_of_the_mirrors_is_never_filled_from_one_with_other_names():
    ours = holder(nnx.Module, a=nnx.Linear(6, 8, rngs=rngs()), b=nnx.Linear(8, 6, rngs=rngs()))
    report = plan(FeedForward(6, 8), ours)
    assert {fault.fault for fault in report.faults} == {"unexpected", "missing"}


class LinenModel(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = x + linen.MultiHeadDotProductAttention(2)(linen.LayerNorm(epsilon=1e-5)(x))
        return linen.Dense(5)(linen.Conv(6, (3,), padding="VALID")(x))


class TorchModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.attention = nn.LayerNorm(6), nn.MultiheadAttention(6, 2, batch_first=True)
        self.conv, self.last = nn.Conv1d(6, 6, 3), nn.Linear(6, 5)

    def forward(self, x):
        y = self.norm(x)
        x = x + self.attention(y, y, y)[0]
        return self.last(self.conv(x.mT).mT)


def test_linen_tree_is_filled_and_read():
    theirs, model = randomised(TorchModel()), LinenModel()
    variables = transfer(theirs, model.init(jax.random.key(0), jnp.asarray(X)))
    equal(theirs, variables, lambda m: m(torch.from_numpy(X)), lambda v: model.apply(v, jnp.asarray(X)))
    back = transfer(variables, randomised(TorchModel(), seed=4))
    assert all(torch.equal(x, back.state_dict()[name]) for name, x in theirs.state_dict().items())


def haiku_model(x):
    x = haiku.Conv1D(4, 3, padding="VALID", name="conv")(x)
    x = haiku.LayerNorm(-1, True, True, name="norm")(x)
    return haiku.nets.MLP([5, 7], name="mlp")(x)


def test_haiku_tree_is_filled():
    theirs = holder(
        nn.Module, first=nn.Conv1d(6, 4, 3), norm=nn.LayerNorm(4), mlp=holder(nn.Module, a=nn.Linear(4, 5))
    )
    theirs.mlp.b = nn.Linear(5, 7)
    randomised(theirs)
    model = haiku.without_apply_rng(haiku.transform(haiku_model))
    filled = transfer(theirs, model.init(jax.random.key(0), jnp.asarray(X)))

    def run(m):
        return m.mlp.b(torch.relu(m.mlp.a(m.norm(m.first(torch.from_numpy(X).mT).mT))))

    equal(theirs, filled, run, lambda p: model.apply(p, jnp.asarray(X)))


class EquinoxModel(equinox.Module):
    norm: equinox.nn.LayerNorm
    attention: equinox.nn.MultiheadAttention
    conv: equinox.nn.Conv1d
    last: equinox.nn.Linear

    def __init__(self):
        keys = jax.random.split(jax.random.key(0), 3)
        biases = dict.fromkeys(("use_query_bias", "use_key_bias", "use_value_bias", "use_output_bias"), True)
        self.norm = equinox.nn.LayerNorm(6)
        self.attention = equinox.nn.MultiheadAttention(2, 6, **biases, key=keys[0])
        self.conv = equinox.nn.Conv1d(6, 6, 3, key=keys[1])
        self.last = equinox.nn.Linear(6, 5, key=keys[2])

    def __call__(self, x):
        y = jax.vmap(self.norm)(x)
        x = x + self.attention(y, y, y)
        return jax.vmap(self.last)(self.conv(x.T).T)


def test_equinox_module_is_filled_and_read():
    theirs = randomised(TorchModel())
    ours = transfer(theirs, EquinoxModel())
    equal(theirs, ours, lambda m: m(torch.from_numpy(X)), lambda m: jax.vmap(m)(jnp.asarray(X)))
    back = transfer(ours, randomised(TorchModel(), seed=4))
    assert all(torch.equal(x, back.state_dict()[name]) for name, x in theirs.state_dict().items())
