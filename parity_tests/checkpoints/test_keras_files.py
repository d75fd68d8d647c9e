"""Keras files are converted to this package's layout and back: single layers and layers nested in models."""

import json
import marshal
import os
import tempfile
import zipfile
from pathlib import Path

import h5py
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from typer.testing import CliRunner

import jax_attention
import torch_attention
from attention_bridge import checkpoints
from attention_bridge.checkpoints import Spec, faults
from attention_bridge.cli import app
from attention_bridge.errors import CheckpointError, ConversionError
from attention_bridge.pretrained.keras import config as keras_config
from attention_bridge.pretrained.keras import layers as keras_layers
from attention_bridge.weights import convert, transfer
from attention_bridge.weights.layouts import LAYOUTS
from parity_tests.checkpoints.test_checkpoint_fuzz import mutated, outcome
from parity_tests.helpers.checkpoint_samples import bits, load
from parity_tests.helpers.keras_samples import functional, nested, random_weights, values

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation:DeprecationWarning", "ignore:Skipping variable loading for optimizer"
)
FIRST = "layers/multi_head_attention"
RUNNER = CliRunner()

MHA, GQA = keras.layers.MultiHeadAttention, keras.layers.GroupQueryAttention
LAYERS = {
    "mha": (lambda: MHA(3, 4), "MultiHeadSelfAttention", {}),
    "no bias": (lambda: MHA(3, 4, use_bias=False), "MultiHeadSelfAttention", {"bias": False}),
    "gate": (lambda: MHA(3, 4, use_gate=True), "GatedAttention", {}),
    "gqa": (lambda: GQA(4, 3, 1), "GroupedQueryAttention", {"num_kv_heads": 1}),
    "gated gqa": (lambda: GQA(4, 3, 1, use_gate=True), "GatedAttention", {"num_kv_heads": 1}),
}


def run(*arguments):
    """The exit code and the output of the command `convert`."""
    done = RUNNER.invoke(app, ["convert", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.output
    return done.exit_code, done.output


def converted(*arguments):
    code, said = run(*arguments)
    assert code == 0, said
    return said


def refused(*arguments):
    code, said = run(*arguments)
    assert code == 2, said
    assert said.count("\n") == 1
    assert len(said) < 500
    return said


def output(model, x):
    return keras.ops.convert_to_numpy(model(x))


@pytest.fixture
def x():
    return np.random.default_rng(7).standard_normal((2, 5, 12)).astype(np.float32)


@pytest.mark.parametrize(
    "kind",
    [kind if kind == "mha" else pytest.param(kind, marks=pytest.mark.slow) for kind in LAYERS],
)
def test_layer_gives_the_same_output_in_three_frameworks_and_is_converted_back(tmp_path, kind, x):
    make, name, options = LAYERS[kind]
    layout = "keras.gqa" if "gqa" in kind else "keras.mha"
    model = functional(make())
    model.save_weights(tmp_path / "a.weights.h5")
    converted(tmp_path / "a.weights.h5", tmp_path / "a.safetensors", "--from", layout)
    place = "layers.grouped_query_attention." if "gqa" in kind else "layers.multi_head_attention."
    tensors = {n.removeprefix(place): t for n, t in checkpoints.read(tmp_path / "a.safetensors").items()}
    expected = output(model, x)
    ours = transfer(tensors, getattr(torch_attention, name)(12, 3, **options))
    with torch.no_grad():
        np.testing.assert_allclose(ours(torch.from_numpy(x)).output.numpy(), expected, atol=1e-5)
    other = transfer(ours, getattr(jax_attention, name)(12, 3, **options, rngs=nnx.Rngs(0)))
    np.testing.assert_allclose(other(jnp.asarray(x)).output, expected, atol=1e-5)

    said = converted(
        tmp_path / "a.safetensors", tmp_path / "b.weights.h5", "--to", layout, "--from", "torch_attention"
    )
    assert place.strip(".").replace(".", "/") in said
    assert bits(load(tmp_path / "b.weights.h5")) == bits(load(tmp_path / "a.weights.h5"))
    fresh = functional(make(), seed=1)
    fresh.load_weights(tmp_path / "b.weights.h5")
    assert values(fresh) == values(model)
    np.testing.assert_array_equal(output(fresh, x), expected)


@pytest.mark.parametrize(
    "options",
    [{"value_dim": 5}, {"output_shape": 7}, {"value_dim": 2, "output_shape": (7,), "use_bias": False}],
)
def test_sizes_that_no_class_of_the_mirrors_has_are_converted_back(tmp_path, options):
    model = functional(MHA(3, 4, **options))
    model.save_weights(tmp_path / "a.weights.h5")
    converted(tmp_path / "a.weights.h5", tmp_path / "a.npz", "--from", "keras.mha")
    values_weight = load(tmp_path / "a.npz")["layers.multi_head_attention.v_proj.weight"]
    assert values_weight.shape == (3 * options.get("value_dim", 4), 12)
    converted(tmp_path / "a.npz", tmp_path / "b.weights.h5", "--from", "torch_attention", "--to", "keras.mha")
    fresh = functional(MHA(3, 4, **options), seed=1)
    fresh.load_weights(tmp_path / "b.weights.h5")
    assert values(fresh) == values(model)


class TestNested:
    def test_whole_model_is_converted_to_the_mirrors_names_and_back(self, tmp_path, x):
        model = nested()
        model.save_weights(tmp_path / "a.weights.h5")
        said = converted(tmp_path / "a.weights.h5", tmp_path / "a.safetensors", "--from", "keras.mha")
        assert "variables of layers other than attention" in said
        assert "the state of the optimizer" in said
        tensors = checkpoints.read(tmp_path / "a.safetensors")
        attention = {name.rpartition(".q_proj.")[0] for name in tensors if name.endswith("q_proj.weight")}
        block = "layers.sequential.layers.block"
        assert attention == {
            "layers.multi_head_attention",
            "layers.functional.layers.multi_head_attention",
            f"{block}.attend",
            f"{block}.parts.multi_head_attention",
            f"{block}.deep.container.grouped_query_attention",
        }
        assert tensors["layers.sequential.layers.dense.vars.0"].shape == (12, 12)
        converted(
            tmp_path / "a.safetensors",
            tmp_path / "b.weights.h5",
            "--from",
            "torch_attention",
            "--to",
            "keras.mha",
        )
        before = load(tmp_path / "a.weights.h5")
        before = {name: array for name, array in before.items() if not name.startswith("optimizer/")}
        assert bits(load(tmp_path / "b.weights.h5")) == bits(before)
        fresh = nested(seed=1)
        fresh.load_weights(tmp_path / "b.weights.h5")
        assert values(fresh) == values(model)
        np.testing.assert_array_equal(output(fresh, x), output(model, x))

    def test_model_is_converted_back_through_other_layouts_and_formats(self, tmp_path):
        model = functional(MHA(3, 4), MHA(2, 6), MHA(4, 3))
        model.save_weights(tmp_path / "a.weights.h5")
        converted(
            tmp_path / "a.weights.h5", tmp_path / "a.safetensors", "--from", "keras.mha", "--to", "torch.mha"
        )
        tensors = checkpoints.read(tmp_path / "a.safetensors")
        assert tensors[f"{FIRST.replace('/', '.')}_2.in_proj_weight"].shape == (36, 12)
        converted(
            tmp_path / "a.safetensors", tmp_path / "b.msgpack", "--from", "torch.mha", "--to", "jax_attention"
        )
        sizes = [f"layers.multi_head_attention{n}.d={d}" for n, d in (("", 4), ("_1", 6), ("_2", 3))]
        axes = [part for size in sizes for part in ("--axis", size)]
        converted(
            tmp_path / "b.msgpack",
            tmp_path / "b.weights.h5",
            "--from",
            "jax_attention",
            "--to",
            "keras.mha",
            *axes,
        )
        assert bits(load(tmp_path / "b.weights.h5")) == bits(load(tmp_path / "a.weights.h5"))

    @pytest.mark.slow
    def test_layout_without_rules_for_other_layers_keeps_them_unchanged(self, tmp_path):
        nested().save_weights(tmp_path / "a.weights.h5")
        code, said = run(
            tmp_path / "a.weights.h5", tmp_path / "a.pt", "--from", "keras.mha", "--to", "haiku.mha"
        )
        assert code == 0, said
        assert "layers.sequential.layers.dense.vars.0" in load(tmp_path / "a.pt")


class TestOtherFiles:
    def test_whole_model(self, tmp_path):
        model = functional(MHA(3, 4, dropout=0.1), GQA(4, 4, 2))
        model.save(tmp_path / "a.keras")
        model.save_weights(tmp_path / "a.weights.h5")
        converted(tmp_path / "a.keras", tmp_path / "b.weights.h5", "--from", "keras.mha", "--to", "keras.mha")
        assert bits(load(tmp_path / "b.weights.h5")) == bits(load(tmp_path / "a.weights.h5"))

    @pytest.mark.slow
    def test_weights_in_shards(self, tmp_path):
        model = functional(MHA(3, 4), keras.layers.MultiHeadAttention(3, 4), GQA(4, 3, 1))
        model.save_weights(tmp_path / "a.weights.json", max_shard_size=2e-6)
        model.save_weights(tmp_path / "b.weights.h5")
        assert len(list(tmp_path.glob("a_*.weights.h5"))) > 1
        tensors = load(tmp_path / "a.weights.json")
        assert bits(tensors) == bits(load(tmp_path / "b.weights.h5"))
        converted(tmp_path / "a.weights.json", tmp_path / "a.npz", "--from", "keras.mha")

    def test_damaged_shards_raise(self, tmp_path):
        functional(MHA(3, 4)).save_weights(tmp_path / "a.weights.json", max_shard_size=1.2e-6)
        index = json.loads((tmp_path / "a.weights.json").read_text())

        def sentence(changed):
            (tmp_path / "x.weights.json").write_text(json.dumps(changed))
            with pytest.raises(CheckpointError) as error:
                checkpoints.open(tmp_path / "x.weights.json")
            return str(error.value)

        group, first = next(iter(index["weight_map"].items()))
        first = first if isinstance(first, str) else first[0]
        fewer = {name: shard for name, shard in index["weight_map"].items() if name != group}
        assert "disagree about its groups" in sentence({**index, "weight_map": fewer})
        assert "bytes, but they have" in sentence({**index, "metadata": {"total_size": 1}})
        assert "outside its directory" in sentence({**index, "weight_map": {group: "../x.weights.h5"}})
        assert "shards that are missing" in sentence({**index, "weight_map": {group: "none.weights.h5"}})
        for nonsense in (
            {},
            [],
            {"weight_map": {group: 1}, "metadata": {"total_size": 1}},
            {**index, "weight_map": {}},
        ):
            assert "x.weights.json" in sentence(nonsense)
        name = next(name for name in load(tmp_path / first) if f"/{name}".startswith(group))
        with h5py.File(tmp_path / first, "r+") as file:
            del file[name]
        assert "bytes, but they have" in sentence(index) or "disagree" in sentence(index)

    @pytest.mark.slow
    def test_names_of_older_versions_are_read_and_written_files_load(self, tmp_path):
        model = functional(MHA(3, 4))
        model.save_weights(tmp_path / "new.weights.h5")
        with h5py.File(tmp_path / "old.weights.h5", "w") as file:
            for name, array in load(tmp_path / "new.weights.h5").items():
                layer, _, rest = name.rpartition("/multi_head_attention/")
                file[f"{layer}/multi_head_attention/_{rest}"] = array
        converted(
            tmp_path / "old.weights.h5", tmp_path / "b.weights.h5", "--from", "keras.mha", "--to", "keras.mha"
        )
        assert bits(load(tmp_path / "b.weights.h5")) == bits(load(tmp_path / "new.weights.h5"))
        fresh = functional(MHA(3, 4), seed=1)
        fresh.load_weights(tmp_path / "old.weights.h5")
        assert values(fresh) == values(model)

    @pytest.mark.slow
    def test_bfloat16(self, tmp_path):
        model = functional(MHA(3, 4, dtype="bfloat16"))
        model.save_weights(tmp_path / "a.weights.h5")
        converted(tmp_path / "a.weights.h5", tmp_path / "a.safetensors", "--from", "keras.mha")
        converted(
            tmp_path / "a.safetensors",
            tmp_path / "b.weights.h5",
            "--from",
            "torch_attention",
            "--to",
            "keras.mha",
        )
        assert bits(load(tmp_path / "b.weights.h5")) == bits(load(tmp_path / "a.weights.h5"))
        functional(MHA(3, 4, dtype="bfloat16"), seed=1).load_weights(tmp_path / "b.weights.h5")


class TestPlaces:
    @pytest.fixture
    def theirs(self, tmp_path):
        layers = {name: torch.nn.MultiheadAttention(12, 3, batch_first=True) for name in ("a", "b")}
        module = torch.nn.ModuleDict(layers)
        torch.save(module.state_dict(), tmp_path / "theirs.pt")
        torch.save(layers["a"].state_dict(), tmp_path / "alone.pt")
        return module

    def test_layer_without_a_path_becomes_the_first_of_a_model(self, tmp_path, theirs, x):
        said = converted(
            tmp_path / "alone.pt",
            tmp_path / "b.weights.h5",
            "--from",
            "torch.mha",
            "--to",
            "keras.mha",
            "--axis",
            "d=4",
        )
        assert FIRST in said
        assert "--place sets others" in said
        model = functional(MHA(3, 4, name="any"))
        model.load_weights(tmp_path / "b.weights.h5")
        with torch.no_grad():
            expected = theirs["a"](*[torch.from_numpy(x)] * 3)[0].numpy()
        np.testing.assert_allclose(output(model, x), expected, atol=1e-5)

    def test_place_option_sets_the_paths(self, tmp_path, theirs, x):
        arguments = ("--from", "torch.mha", "--to", "keras.mha", "--axis", "d=4")
        places = ("--place", f"a={FIRST}_1", "--place", f"b=/{FIRST}")
        converted(tmp_path / "theirs.pt", tmp_path / "b.weights.h5", *arguments, *places)
        model = functional(MHA(3, 4), MHA(3, 4))
        model.load_weights(tmp_path / "b.weights.h5")
        with torch.no_grad():
            given = torch.from_numpy(x)
            for name in ("b", "a"):
                given = theirs[name](given, given, given)[0]
        np.testing.assert_allclose(output(model, x), given.numpy(), atol=1e-5)

    def test_nested_layer_keeps_its_path(self, tmp_path, theirs):
        converted(
            tmp_path / "theirs.pt",
            tmp_path / "b.weights.h5",
            "--from",
            "torch.mha",
            "--to",
            "keras.mha",
            "--axis",
            "d=4",
        )
        assert "a/query_dense/vars/0" in load(tmp_path / "b.weights.h5")

    @pytest.mark.parametrize("kind", ["mha", pytest.param("gqa", marks=pytest.mark.slow)])
    def test_layer_saved_alone_is_converted_back(self, tmp_path, kind, x):
        layer, fresh = LAYERS[kind][0](), LAYERS[kind][0]()
        for each in (layer, fresh):
            each.build(x.shape, x.shape)
        keras.saving.save_weights(random_weights(layer), tmp_path / "a.weights.h5")
        converted(tmp_path / "a.weights.h5", tmp_path / "a.safetensors", "--from", f"keras.{kind}")
        arguments = ("--from", "torch_attention", "--to", f"keras.{kind}")
        converted(tmp_path / "a.safetensors", tmp_path / "b.weights.h5", *arguments)
        assert bits(load(tmp_path / "b.weights.h5")) == bits(load(tmp_path / "a.weights.h5"))
        keras.saving.load_weights(fresh, tmp_path / "b.weights.h5")
        assert values(fresh) == values(layer)
        converted(
            tmp_path / "a.safetensors", tmp_path / "c.weights.h5", *arguments, "--place", "=layers/mine"
        )
        assert all(name.startswith("layers/mine/") for name in load(tmp_path / "c.weights.h5"))

    def test_files_that_keras_could_not_load_raise(self, tmp_path, theirs):
        target, to = tmp_path / "b.weights.h5", ("--to", "keras.mha", "--axis", "d=4")
        arguments = (tmp_path / "theirs.pt", target, "--from", "torch.mha", *to)
        assert "two tensors would be called" in refused(*arguments, "--place", "a=x", "--place", "b=x")
        for wrong in ("a", "a=", "a=x y", "a=x/0/y", "a=../y"):
            assert "--place must be two paths" in refused(*arguments, "--place", wrong)
        assert "its name must end in .weights.h5" in refused(
            tmp_path / "alone.pt", tmp_path / "b.h5", "--from", "torch.mha", *to
        )
        assert "must end in" in refused(
            tmp_path / "alone.pt", tmp_path / "b.keras", "--from", "torch.mha", *to
        )
        assert "--place is for files that Keras loads" in refused(
            tmp_path / "alone.pt", tmp_path / "b.npz", "--from", "torch.mha", *to, "--place", "a=x"
        )
        torch.save({f"0.{name}": w for name, w in theirs["a"].state_dict().items()}, tmp_path / "numbers.pt")
        said = refused(tmp_path / "numbers.pt", target, "--from", "torch.mha", *to)
        assert "'0' is not a name of an attribute or class" in said
        assert "--place 0=layers/multi_head_attention" in said
        grouped = torch_attention.GroupedQueryAttention(12, 3, 1).state_dict()
        torch.save(grouped, tmp_path / "grouped.pt")
        assert "write it with --to keras.gqa" in refused(
            tmp_path / "grouped.pt", target, "--from", "torch_attention", *to
        )
        torch.save({n: w for n, w in grouped.items() if "out_proj" not in n}, tmp_path / "lacking.pt")
        assert "lacks the kernel of attention_output" in refused(
            tmp_path / "lacking.pt", target, "--from", "torch_attention", "--to", "keras.gqa", "--axis", "d=4"
        )
        assert not target.exists()


class TestRefusals:
    """Incomplete layers: a file's tensors are checked before anything is converted."""

    @pytest.fixture
    def whole(self):
        parts = {"query": (12, 3, 4), "key": (12, 3, 4), "value": (12, 3, 4), "output": (3, 4, 12)}
        kernels = {f"{FIRST}/{part}_dense/vars/0": shape for part, shape in parts.items()}
        biases = {f"{FIRST}/{part}_dense/vars/1": (3, 4) for part in parts}
        shapes = {**kernels, **biases, f"{FIRST}/output_dense/vars/1": (12,)}
        return {name: Spec(shape, np.dtype(np.float32)) for name, shape in shapes.items()}

    def sentence(self, specs):
        with pytest.raises(CheckpointError) as error:
            keras_layers.layers(Path("a.weights.h5"), specs, LAYOUTS["keras.mha"])
        assert "\n" not in str(error.value)
        return str(error.value)

    def test_whole_layer_is_understood(self, whole):
        heads = keras_layers.layers(Path("a.weights.h5"), whole, LAYOUTS["keras.mha"])
        assert heads == {FIRST.replace("/", "."): (3, 3, 4, 4, True, False)}

    def test_each_tensor_is_needed(self, whole):
        for name in whole:
            said = self.sentence({other: spec for other, spec in whole.items() if other != name})
            assert said.startswith("a.weights.h5 lacks the ")
            assert name.partition(f"{FIRST}/")[2] in said
            assert said.endswith(f"in {FIRST}")

    def test_surplus_tensor_raises(self, whole):
        one = Spec((3,), np.dtype(np.float32))
        for name in ("vars/0", "_query_norm/vars/0", "_gate_dense/vars/1", "sub/layer/vars/3"):
            assert "a.weights.h5" in self.sentence({**whole, f"{FIRST}/{name}": one})
        for name in ("key_dense/vars/2", "_key_dense/vars/scale"):
            with pytest.raises(ConversionError, match="only if it is quantised"):
                convert({f"{FIRST}/{name}": np.ones(3)}, "keras.mha", "torch_attention")

    def test_two_layers_with_equal_paths(self, whole):
        twice = {name.replace("/query", "/_query"): spec for name, spec in whole.items()}
        assert "holds two tensors for layers.multi_head_attention.query" in self.sentence({**whole, **twice})
        dotted = {name.replace("layers/", "layers."): spec for name, spec in whole.items()}
        assert "holds two tensors for" in self.sentence({**whole, **dotted})

    @pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.bool_, np.complex64])
    def test_quantised_kernels(self, whole, dtype):
        name = f"{FIRST}/key_dense/vars/0"
        assert "it is quantised" in self.sentence({**whole, name: Spec((12, 3, 4), np.dtype(dtype))})

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("key_dense/vars/0", (12, 2, 4)),
            ("key_dense/vars/0", (12, 3, 5)),
            ("key_dense/vars/0", (12, 0, 4)),
            ("query_dense/vars/0", (12, 12)),
            ("value_dense/vars/0", (12, 1, 4)),
            ("output_dense/vars/0", (3, 5, 12)),
            ("output_dense/vars/0", (3, 4, 2, 6)),
            ("output_dense/vars/1", (3, 4)),
            ("value_dense/vars/1", (12,)),
        ],
    )
    def test_shapes_that_contradict_each_other(self, whole, name, shape):
        said = self.sentence({**whole, f"{FIRST}/{name}": Spec(shape, np.dtype(np.float32))})
        assert said.startswith("a.weights.h5 has ")
        assert FIRST in said

    def test_file_without_attention_or_with_half_a_layer(self, tmp_path):
        with h5py.File(tmp_path / "a.weights.h5", "w") as file:
            file["layers/dense/vars/0"] = np.ones((2, 3), np.float32)
        said = refused(tmp_path / "a.weights.h5", tmp_path / "b.npz", "--from", "keras.mha")
        assert "has no attention layer of Keras" in said
        with h5py.File(tmp_path / "a.weights.h5", "r+") as file:
            file[f"{FIRST}/key_dense/vars/0"] = np.ones((2, 3, 4), np.float32)
        said = refused(tmp_path / "a.weights.h5", tmp_path / "b.npz", "--from", "keras.mha")
        assert "lacks the kernel of query" in said
        assert not (tmp_path / "b.npz").exists()

    @pytest.mark.parametrize("text", ["[]", '{"a": 0}', '{"d": true}', '{"d": "4"}', "x", "[" * 10**5, "NaN"])
    def test_invalid_axis_sizes_in_metadata(self, text):
        with pytest.raises(CheckpointError, match=r"metadata keras\.axes must be sizes by name"):
            keras_layers.read_axes(Path("a.npz"), {"keras.axes": text})

    def test_axis_sizes_given_override_those_in_metadata(self, tmp_path):
        module = torch_attention.MultiHeadSelfAttention(12, 3)
        tensors = {f"a.{name}": tensor.numpy() for name, tensor in module.state_dict().items()}
        checkpoints.write(tmp_path / "a.safetensors", tensors, {"keras.axes": '{"a.d": 4, "a.v": 4}'})
        arguments = (tmp_path / "a.safetensors", "--from", "torch_attention", "--to", "keras.mha")
        for axes, dim in (
            ((), 4),
            (("--axis", "d=6", "--axis", "v=6"), 6),
            (("--axis", "a.d=2", "--axis", "a.v=2"), 2),
        ):
            converted(arguments[0], tmp_path / f"{dim}.weights.h5", *arguments[1:], *axes)
            assert load(tmp_path / f"{dim}.weights.h5")["a/query_dense/vars/0"].shape == (12, 12 // dim, dim)


class TestDescriptions:
    """The `config.json` of a `.keras` file."""

    @pytest.fixture
    def saved(self, tmp_path):
        (tmp_path / "saved").mkdir()
        functional(MHA(3, 4, name="one"), MHA(2, 6, name="two")).save(tmp_path / "saved" / "a.keras")
        return tmp_path / "saved" / "a.keras"

    def sentence(self, config, heads):
        with pytest.raises(CheckpointError) as error:
            keras_config.check(Path("a.keras"), config, heads)
        assert "\n" not in str(error.value)
        assert len(str(error.value)) < 400
        return str(error.value)

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            ({"sliding_window": 3}, "sliding_window=3, which no tensor shows"),
            ({"attention_axes": (2,)}, "attention_axes=[2], but the mirrors attend over one axis"),
            ({"attention_axes": (1, 2)}, "attention_axes=[1, 2], but the mirrors attend over one axis"),
            ({}, "attention_axes=[1, 2], but the mirrors attend over one axis"),
            (
                {"attention_axes": 1, "output_shape": (2, 6)},
                "output_shape=(2, 6), but an output of several axes",
            ),
        ],
    )
    def test_options_that_no_tensor_shows_raise(self, options, sentence):
        given = keras.Input((5, 12) if "sliding_window" in options else (5, 3, 12))
        inner = keras.Model(given, MHA(3, 4, name="mine", **options)(given, given))
        outer = keras.Sequential([keras.Input(given.shape[1:]), inner])
        config = json.loads(json.dumps(keras.saving.serialize_keras_object(outer)))
        heads = {"": keras_layers.Heads(3, 3, 4, 4, True, False)}
        assert self.sentence(config, heads) == f"a.keras is refused: its layer mine has {sentence}" + (
            ": give it to the layer of the mirrors, by hand"
            if "sliding_window" in options
            else " has no place in the mirrors"
            if "output_shape" in options
            else ", the first behind the batch"
        )

    def test_long_words_in_a_description_are_cut(self):
        for options in ({"name": "x" * 9999, "sliding_window": 2}, {"sliding_window": ["x" * 9999]}):
            self.sentence({"class_name": "MultiHeadAttention", "config": options}, {})
        sizes = {"name": "x" * 9999, "num_heads": 10**4000, "key_dim": "x" * 9999}
        for wrong in (sizes, {**sizes, "key_dim": 10**4000}):
            self.sentence({"class_name": "MultiHeadAttention", "config": wrong}, {})

    def test_grouped_window_inside_a_model_raises(self, tmp_path):
        inner = functional(GQA(4, 4, 2, sliding_window=2))
        keras.Sequential([keras.Input((5, 12)), inner]).save(tmp_path / "a.keras")
        said = refused(tmp_path / "a.keras", tmp_path / "b.npz", "--from", "keras.gqa")
        assert "sliding_window=2, which no tensor shows" in said
        assert not (tmp_path / "b.npz").exists()

    def test_window_in_a_file_of_the_old_format_raises(self, tmp_path):
        functional(MHA(3, 4, sliding_window=2)).save(tmp_path / "a.h5")
        said = refused(tmp_path / "a.h5", tmp_path / "b.npz", "--from", "keras.mha")
        assert "sliding_window=2, which no tensor shows" in said

    def test_missing_description_is_reported(self, tmp_path, saved):
        functional(MHA(3, 4, sliding_window=2)).save_weights(tmp_path / "a.weights.h5")
        arguments = ("--from", "keras.mha", "--to", "torch.mha")
        said = converted(tmp_path / "a.weights.h5", tmp_path / "a.npz", *arguments)
        assert "sliding_window and attention_axes are in no file of weights" in said
        assert "sliding_window" not in converted(saved, tmp_path / "b.npz", *arguments)

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ('"num_heads": 3', '"num_heads": 4'),
            ('"key_dim": 6', '"key_dim": 5'),
            ('"value_dim": 4', '"value_dim": 5'),
            ('"use_bias": true', '"use_bias": false'),
            ('"use_gate": false', '"use_gate": true'),
            ('"num_heads": 3, ', ""),
            ('"num_heads": 3', '"num_heads": "3"'),
            ('"num_heads": 3', '"num_heads": 1e999'),
            ('"num_heads": 3', '"num_heads": [3]'),
            ('"class_name": "MultiHeadAttention"', '"class_name": "Dropout"'),
        ],
    )
    def test_description_that_disagrees_with_the_tensors_raises(self, saved, before, after):
        with zipfile.ZipFile(saved) as archive:
            text = archive.read("config.json").decode()
        assert before in text
        heads = {
            FIRST.replace("/", "."): keras_layers.Heads(3, 3, 4, 4, True, False),
            f"{FIRST.replace('/', '.')}_1": keras_layers.Heads(2, 2, 6, 6, True, False),
        }
        keras_config.check(saved, json.loads(text), heads)
        assert "its config.json describes" in self.sentence(json.loads(text.replace(before, after, 1)), heads)
        assert "its config.json describes" in self.sentence(json.loads(text), dict([heads.popitem()]))
        none = json.loads(text.replace('"MultiHeadAttention"', '"Dropout"'))
        assert "describes no attention layer of the sizes of layers/multi_head_attention" in self.sentence(
            none, heads
        )
        keras_config.check(saved, {**none, "module": "keras_hub.models"}, heads)

    def test_damaged_archives_raise(self, saved, tmp_path):
        def change(entries, path=tmp_path / "x.keras"):
            with zipfile.ZipFile(saved) as old, zipfile.ZipFile(path, "w") as new:
                contents = {name: old.read(name) for name in old.namelist()}
                for name, content in {**contents, **entries}.items():
                    if content is not None:
                        new.writestr(name, content)
            with pytest.raises(CheckpointError) as error:
                checkpoints.open(path)
            assert str(path) in str(error.value)
            assert "\n" not in str(error.value)
            return str(error.value)

        for text in ('{"a": 1, "a": 2}', '{"class_name": "Functional', "[" * 10**5, b"\xff"):
            assert "is no JSON: " in change({"config.json": text})
        assert "no JSON object" in change({"config.json": "[]"})
        assert "x.keras" in change({"config.json": None})
        assert "x.keras" in change({"model.weights.h5": None})
        assert "must be in model.weights.h5 alone" in change({"model.weights.npz": b"x"})
        for name in ("/etc/x", "../x", "assets/../../x", "C:/x"):
            assert "leads elsewhere" in change({name: b"x"})
        assert "is damaged or no HDF5 file" in change({"model.weights.h5": b"x" * 999})
        (tmp_path / "x.keras").write_bytes(saved.read_bytes()[:-500])
        assert "x.keras is truncated" in refused(
            tmp_path / "x.keras", tmp_path / "b.npz", "--from", "keras.mha"
        )

    @pytest.mark.slow
    def test_random_damage_gives_the_right_values_or_one_sentence(self, saved):
        content, path, outcomes = saved.read_bytes(), saved.with_name("x.keras"), []
        for seed in range(400):
            path.write_bytes(mutated(content, np.random.default_rng(seed)))
            outcomes.append(outcome(path))
            if outcomes[-1] == "read":
                assert bits(load(path)) == bits(load(saved))
        assert outcomes.count("refused") > 300

    def test_no_code_of_the_current_directory_is_run(self, saved, monkeypatch):
        for name in ("h5py", "numpy", "json", "zipfile", "keras"):
            saved.with_name(f"{name}.py").write_text(f"open({str(saved.with_name('ran'))!r}, 'w')")
        monkeypatch.chdir(saved.parent)
        monkeypatch.setenv("PYTHONPATH", str(saved.parent))
        with checkpoints.open("a.keras") as reader:
            assert len(reader.specs) == 16
        assert not saved.with_name("ran").exists()

    def test_zip_bomb_raises(self, saved, monkeypatch):
        monkeypatch.setattr(faults, "ALWAYS_ALLOWED", 1)
        with zipfile.ZipFile(saved.with_name("x.keras"), "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("config.json", "{}")
            archive.writestr("model.weights.h5", bytes(2**20))
        with pytest.raises(CheckpointError, match=r"x\.keras is refused: it has \d+ bytes and declares \d+"):
            checkpoints.open(saved.with_name("x.keras"))

    def test_code_in_a_description_is_not_run(self, tmp_path, monkeypatch):
        given = keras.Input((5, 12))
        keras.Model(given, keras.layers.Lambda(lambda x: x)(MHA(3, 4)(given, given))).save(
            tmp_path / "a.keras"
        )
        for name in ("deserialize_keras_object", "load_model"):
            monkeypatch.setattr(keras.saving, name, lambda *a, **k: pytest.fail("Keras was called"))
        monkeypatch.setattr(marshal, "loads", lambda *a: pytest.fail("code was read"))
        converted(tmp_path / "a.keras", tmp_path / "b.npz", "--from", "keras.mha")

    def test_unpacked_files_are_removed(self, saved, tmp_path, monkeypatch):
        (tmp_path / "empty").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "empty"))
        with checkpoints.open(saved) as reader:
            assert [*(tmp_path / "empty").iterdir()] == []
            assert sum(array.size for _, array in reader.items()) == 2 * 4 * 156


@pytest.mark.parametrize("layer", ["narrow", "wide values", "other output", "grouped"])
def test_layers_that_torch_lacks_raise(layer):
    sizes = {
        "narrow": (2, 2, 4, 4),
        "wide values": (3, 3, 4, 5),
        "other output": (3, 3, 4, 4),
        "grouped": (3, 1, 4, 4),
    }
    heads, groups, keys, values = sizes[layer]
    shapes = {"query": (heads, keys), "key": (groups, keys), "value": (groups, values)}
    kernels = {f"a/{name}_dense/vars/0": np.ones((12, *shape)) for name, shape in shapes.items()}
    kernels["a/output_dense/vars/0"] = np.ones((heads, values, 7 if layer == "other output" else 12))
    with pytest.raises(ConversionError, match="wrong shape"):
        convert(kernels, "keras.mha", "torch.mha")


class TestTransfer:
    @pytest.mark.parametrize("kind", LAYERS)
    def test_layer_and_back(self, kind, x):
        make, name, options = LAYERS[kind]
        theirs, fresh = make(), make()
        for layer in (theirs, fresh):
            layer.build(x.shape, x.shape)
        random_weights(theirs)
        ours = transfer(theirs, getattr(torch_attention, name)(12, 3, **options))
        given = keras.ops.convert_to_tensor(x)
        expected = keras.ops.convert_to_numpy(theirs(given, given))
        with torch.no_grad():
            np.testing.assert_allclose(ours(torch.from_numpy(x)).output.numpy(), expected, atol=1e-5)
        other = transfer(theirs, getattr(jax_attention, name)(12, 3, **options, rngs=nnx.Rngs(0)))
        assert transfer(other, fresh) is fresh
        assert values(fresh) == values(theirs)

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
    def test_layer_of_another_library_and_back(self, dtype, x):
        theirs = MHA(3, 4, dtype=dtype)
        theirs.build(x.shape, x.shape)
        first = torch.nn.MultiheadAttention(12, 3, batch_first=True, dtype=getattr(torch, dtype))
        second = torch.nn.MultiheadAttention(12, 3, batch_first=True, dtype=getattr(torch, dtype))
        transfer(transfer(first, theirs), second)
        assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))

    def test_model(self):
        theirs = functional(MHA(3, 4, name="a"), GQA(6, 2, 1, name="b"))
        ours = torch.nn.ModuleDict(
            {
                "a": torch_attention.MultiHeadSelfAttention(12, 3),
                "b": torch_attention.GroupedQueryAttention(12, 2, 1),
            }
        )
        transfer(theirs, ours)
        fresh = functional(MHA(3, 4, name="a"), GQA(6, 2, 1, name="b"), seed=1)
        assert values(transfer(ours, fresh)) == values(theirs)

    @pytest.mark.parametrize("kind", [MHA, GQA])
    @pytest.mark.parametrize("inside", [False, True])
    def test_window_raises_both_ways(self, kind, inside, x):
        sizes = {"head_dim": 4, "num_query_heads": 3, "num_key_value_heads": 3} if kind is GQA else {}
        sizes = sizes or {"num_heads": 3, "key_dim": 4}
        theirs = functional(kind(**sizes, sliding_window=2, name="a"))
        ours = torch.nn.ModuleDict({"a": torch_attention.MultiHeadSelfAttention(12, 3)})
        if not inside:
            theirs, ours = theirs.layers[-1], ours["a"]
        before = values(theirs)
        for source, target in ((theirs, ours), (ours, theirs)):
            with pytest.raises(ConversionError, match="sliding_window=2, which no tensor shows"):
                transfer(source, target)
        assert values(theirs) == before

    def test_layer_without_weights_raises(self):
        with pytest.raises(ValueError, match="has no weights yet: build it"):
            transfer(MHA(3, 4), torch_attention.MultiHeadSelfAttention(12, 3))
