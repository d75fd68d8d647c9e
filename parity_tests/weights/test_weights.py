"""The weight engine: names, rules, conversion of arrays, transfer between models."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from flax import nnx
from flax.core import FrozenDict
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_bridge.errors import ConversionError
from attention_bridge.weights import (
    Constant,
    Dropped,
    Layout,
    Refused,
    Rule,
    Tied,
    ZeroBias,
    convert,
    plan,
    transfer,
)
from attention_bridge.weights.layouts.jax_attention import JAX_ATTENTION
from attention_bridge.weights.names import NamePattern, alternatives

HUB = "torch_attention"
FLOATS = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]


def numpy_dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def random_bits(shape, dtype, seed=0):
    """Random bit patterns: NaNs with payloads, infinities, subnormals and -0.0 are among them."""
    dtype = numpy_dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(bytearray(np.random.default_rng(seed).bytes(count)), dtype).reshape(shape)


def bits(tensors):
    return {name: (a.shape, a.dtype, a.tobytes()) for name, a in tensors.items()}


def table(*rules, **entries):
    return Layout("other", rules, **entries)


class TestNames:
    def test_path_is_the_modules_with_the_last_dot_or_empty(self):
        pattern = NamePattern("{path}kernel")
        assert pattern.match("layers.0.q_proj.kernel") == {"path": "layers.0.q_proj."}
        assert pattern.match("kernel") == {"path": ""}
        assert pattern.match("my_kernel") is None

    def test_name_has_no_dots(self):
        assert NamePattern("{path}{name}norm.scale").match("a.b_norm.scale") == {"path": "a.", "name": "b_"}
        assert NamePattern("{name}.scale").match("a.b.scale") is None

    def test_number_placeholder_matches_only_digits(self):
        assert NamePattern("layers.{n}.bias").match("layers.12.bias") == {"n": "12"}
        assert NamePattern("layers.{n}.bias").match("layers.x.bias") is None

    def test_literal_parts_are_no_regular_expressions(self):
        assert NamePattern("a.b").match("axb") is None

    def test_alternatives_expand_to_several_names(self):
        assert alternatives("{path}{q,k,v}_proj") == ("{path}q_proj", "{path}k_proj", "{path}v_proj")
        assert alternatives("{path}q_proj") == ("{path}q_proj",)

    def test_alternatives_in_two_positions_raise(self):
        with pytest.raises(ValueError, match="one group of alternatives at most"):
            alternatives("{a,b}.{c,d}")

    def test_unknown_placeholder_raises(self):
        with pytest.raises(ValueError, match="has 'layer'"):
            NamePattern("layers.{layer}")


class TestRules:
    @pytest.mark.parametrize(
        ("rule", "message"),
        [
            (("{path}a", "b"), "differ in their placeholders"),
            (("{a,b,c}", "{d,e}"), "differ in how many alternatives"),
            (("a", "b", "i o -> i"), "each axis occurs once"),
            (("a", "b", "i i -> i i"), "each axis occurs once"),
            (("qkv", "{q,k}", "(two e) d -> (two e) d"), "a named first axis"),
            (("a", "b", "i o"), "two sides"),
        ],
    )
    def test_rule_without_an_inverse_raises(self, rule, message):
        with pytest.raises(ValueError, match=message):
            Rule(*rule)

    def test_packed_tensor_is_split_in_order(self):
        packed = np.arange(3 * 2 * 5.0).reshape(6, 5)
        layout = table(Rule("qkv", "{q,k,v}", "(three e) d -> three e d"))
        apart, _ = convert({"qkv": packed}, layout, HUB)
        assert list(apart) == ["q", "k", "v"]
        np.testing.assert_array_equal(apart["k"], packed[2:4])

    def test_separate_tensors_are_packed(self):
        layout = table(Rule("{q,k,v}", "qkv", "three e d -> (three e) d"))
        tensors = {name: random_bits((2, 5), "float32", seed) for seed, name in enumerate("vkq")}
        packed, _ = convert(tensors, layout, HUB)
        assert packed["qkv"].tobytes() == np.concatenate([tensors[n] for n in "qkv"]).tobytes()

    def test_alternatives_on_both_sides_are_renamed_pairwise(self):
        layout = table(Rule("{query,key}.{name}", "{q,k}_proj.{name}"))
        renamed, _ = convert({"key.bias": np.ones(2)}, layout, HUB)
        assert list(renamed) == ["k_proj.bias"]

    def test_axes_that_the_shape_does_not_give_are_required(self):
        layout = table(Rule("w", "w", "(h three d) e -> (three h d) e"))
        w = np.arange(2 * 3 * 5 * 7).reshape(30, 7)
        with pytest.raises(ConversionError, match=r"a size for h or d in axes"):
            convert({"w": w}, layout, HUB)
        moved, _ = convert({"w": w}, layout, HUB, axes={"h": 2, "unused": 11})
        np.testing.assert_array_equal(moved["w"], w.reshape(2, 3, 5, 7).swapaxes(0, 1).reshape(30, 7))

    RULES = (
        ("w", "w", "i o -> o i"),
        ("w", "w", "... -> ..."),
        ("w", "{q,k,v}", "(three e) d -> three e d"),
        ("w", "{q,k,v}", "d (three e) -> three e d"),
        ("w", "{q,k,v}", "(h three d) e -> three (h d) e"),
        ("{q,k,v}", "w", "three e d -> (three e) d"),
        ("w", "w", "e h d -> (h d) e"),
        ("w", "w", "(h half two) e -> (h two half) e"),
    )

    @given(
        rule=st.sampled_from(RULES),
        sizes=st.fixed_dictionaries({axis: st.integers(1, 5) for axis in ("i", "o", "e", "d", "h", "half")}),
        dtype=st.sampled_from(FLOATS),
        seed=st.integers(0, 2**32 - 1),
    )
    @settings(max_examples=150, deadline=None)
    def test_forward_then_inverse_is_the_identity(self, rule, sizes, dtype, seed):
        sizes = sizes | {"three": 3, "two": 2}
        theirs, _, pattern = rule
        left = pattern.split(" -> ")[0].replace("(", " ( ").replace(")", " ) ").split()
        shape, group = [], None
        for token in left:
            if token == "(":
                group = 1
            elif token == ")":
                shape.append(group)
                group = None
            elif group is not None:
                group *= sizes[token]
            else:
                shape.append(sizes.get(token, 4))
        names = alternatives(theirs)
        shape = shape[len(names) > 1 :]
        tensors = {name: random_bits(shape, dtype, seed + i) for i, name in enumerate(names)}
        layout = table(Rule(*rule))
        hub, _ = convert(tensors, layout, HUB, axes=sizes)
        back, _ = convert(hub, HUB, layout, axes=sizes)
        assert bits(back) == bits(tensors)


class TestConvert:
    def test_first_rule_with_matching_name_and_shape_applies(self):
        layout = table(Rule("{path}w", "{path}w", "i o -> o i"), Rule("{rest}", "{rest}"))
        tensors = {"a.w": np.ones((2, 3)), "b.w": np.ones((2, 3, 5)), "c": np.ones(7)}
        converted, _ = convert(tensors, layout, HUB)
        assert {n: a.shape for n, a in converted.items()} == {"a.w": (3, 2), "b.w": (2, 3, 5), "c": (7,)}

    def test_scalar_is_converted(self):
        converted, _ = convert({"scale": np.array(2.0)}, HUB, "jax_attention")
        assert converted["scale"].shape == ()

    def test_report_covers_every_tensor(self):
        layout = table(
            Rule("qkv", "{q,k,v}.weight", "(three e) d -> three e d"),
            constants=(Constant("ids", lambda shape: np.arange(shape[0]), "always 0, 1, 2"),),
            dropped=(Dropped("head.{rest}", "a task head"),),
        )
        tensors = {"qkv": np.ones((6, 5)), "ids": np.arange(4), "head.bias": np.ones(3)}
        converted, report = convert(tensors, layout, "jax_attention")
        assert list(converted) == ["q.kernel", "k.kernel", "v.kernel"]
        assert report.matched[1] == ("k.kernel", ("qkv",), ("(three e) d -> three e d", "o i -> i o"))
        assert report.ignored == [("ids", "always 0, 1, 2"), ("head.bias", "dropped: a task head")]
        assert str(report).startswith(
            "other to jax_attention: 3 matched, 0 synthesised, 2 ignored, 0 faults."
        )
        assert "k.kernel  qkv   (three e) d -> three e d, then o i -> i o" in str(report)

    def test_tied_tensor_is_compared_and_dropped(self):
        layout = table(Rule("e", "embedding"), tied=(Tied("head", "e", "the embeddings again"),))
        e = np.arange(6.0).reshape(2, 3)
        converted, report = convert({"head": e.copy(), "e": e}, layout, HUB)
        assert list(converted) == ["embedding"]
        assert report.ignored == [("head", "the embeddings again")]
        with pytest.raises(ConversionError, match=r"head +wrong value +the embeddings again"):
            convert({"e": e, "head": e + 1}, layout, HUB)
        with pytest.raises(ConversionError, match=r"e +missing +beside head"):
            convert({"head": e}, layout, HUB)

    def test_constant_with_other_values_is_a_fault(self):
        layout = table(constants=(Constant("ids", lambda shape: np.arange(shape[0]), "always 0, 1, 2"),))
        with pytest.raises(ConversionError, match="1 wrong value"):
            convert({"ids": np.arange(4) + 1}, layout, HUB)

    def test_bias_that_a_format_lacks_is_zero_both_ways(self):
        layout = table(
            Rule("{rest}", "{rest}"),
            zero_biases=(ZeroBias("{path}k_proj.bias", "{path}k_proj.weight", "keys have no bias"),),
        )
        weight = random_bits((2, 5), "bfloat16")
        hub, report = convert({"a.k_proj.weight": weight}, layout, HUB)
        assert bits(hub)["a.k_proj.bias"] == ((2,), weight.dtype, bytes(4))
        assert report.synthesised == [("a.k_proj.bias", "keys have no bias")]
        back, report = convert(hub, HUB, layout)
        assert bits(back) == bits({"a.k_proj.weight": weight})
        assert report.ignored == [("a.k_proj.bias", "keys have no bias")]
        with pytest.raises(ConversionError, match="1 wrong value"):
            convert(hub | {"a.k_proj.bias": np.ones(2)}, HUB, layout)
        with pytest.raises(ConversionError, match="1 clash"):
            convert(hub, layout, HUB)

    def test_all_faults_are_raised_together(self):
        layout = table(
            Rule("qkv.{name}", "{q,k,v}.{name}", "(three e) d -> three e d"),
            Rule("old", "w"),
            Rule("new", "w"),
            refused=(Refused("bias_k", "no class holds it"),),
        )
        tensors = {
            "qkv.weight": np.ones((7, 5)),
            "unknown": np.ones(2),
            "bias_k": np.ones(3),
            "old": np.ones(4),
            "new": np.ones(4),
        }
        with pytest.raises(ConversionError) as caught:
            convert(tensors, layout, HUB)
        assert {(fault.name, fault.fault) for fault in caught.value.faults} == {
            ("qkv.weight", "wrong shape"),
            ("unknown", "unexpected"),
            ("bias_k", "refused"),
            ("w", "clash"),
        }
        sentence, rows = str(caught.value).split("\n\n")
        assert sentence == (
            "Cannot convert other to torch_attention, nothing was written: "
            "1 refused, 1 wrong shape, 1 unexpected, 1 clash."
        )
        assert rows.splitlines()[0].split() == ["name", "fault", "expected", "given"]
        assert len(rows.splitlines()) == 5

    def test_missing_partner_is_named(self):
        layout = table(Rule("qkv", "{q,k,v}", "(three e) d -> three e d"))
        with pytest.raises(ConversionError) as caught:
            convert({"q": np.ones((2, 3)), "v": np.ones((2, 3))}, HUB, layout)
        assert caught.value.faults == (("k", "missing", "beside q, v", ""),)

    def test_tensors_of_different_dtypes_are_not_packed(self):
        layout = table(Rule("qkv", "{q,k,v}", "(three e) d -> three e d"))
        tensors = {"q": np.ones((2, 3)), "k": np.ones((2, 3), np.float32), "v": np.ones((2, 3))}
        with pytest.raises(ConversionError, match="3 wrong shape"):
            convert(tensors, HUB, layout)

    def test_two_spellings_of_one_tensor_clash(self):
        layout = table(Rule("{rest}", "{rest}"), spellings=(("old.{rest}", "{rest}"),))
        with pytest.raises(ConversionError, match="1 clash"):
            convert({"old.w": np.ones(2), "w": np.ones(2)}, layout, HUB)

    def test_unknown_layout_raises_with_the_known_ones(self):
        with pytest.raises(ValueError, match=r"unknown layout 'flax'; did you mean flax\.\w+"):
            convert({}, "flax", HUB)

    def test_conversion_imports_neither_framework(self):
        program = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "jax", "jaxlib", "flax"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
import numpy as np
import attention_bridge.checkpoints, attention_bridge.weights.layouts, attention_bridge.weights
from attention_bridge.weights import convert, transfer

hub, _ = convert({"in_proj_weight": np.ones((6, 2))}, "torch.mha", "jax_attention")
assert list(hub) == ["q_proj.kernel", "k_proj.kernel", "v_proj.kernel"]
filled = transfer({"w": np.ones(3)}, {"w": np.zeros(3)})
assert filled["w"].sum() == 3
assert not {"torch", "jax", "flax"} & set(sys.modules)
"""
        for first in ("weights", "weights.layouts", "checkpoints"):
            code = program.replace("import numpy", f"import attention_bridge.{first}\nimport numpy", 1)
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr


class TorchModel(torch.nn.Module):
    """A module with every kind of name: embedding, norm, linear with and without bias, list, raw parameter, buffer."""

    def __init__(self):
        super().__init__()
        self.token_embedding = torch.nn.Embedding(7, 5)
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleDict({"q_proj": torch.nn.Linear(5, 3), "norm": torch.nn.LayerNorm(3)})
            for _ in range(2)
        )
        self.out_proj = torch.nn.Linear(3, 2, bias=False)
        self.sinks = torch.nn.Parameter(torch.zeros(2, 3, 4))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int32))


class JaxLayer(nnx.Module):
    def __init__(self, rngs):
        self.q_proj = nnx.Linear(5, 3, rngs=rngs)
        self.norm = nnx.LayerNorm(3, epsilon=1e-5, rngs=rngs)  # the eps of PyTorch
        self.dropout = nnx.Dropout(0.5, rngs=rngs)


class JaxModel(nnx.Module):
    """The same model in NNX; its dropout holds random state, which is not a weight."""

    def __init__(self, *, rngs):
        self.token_embedding = nnx.Embed(7, 5, rngs=rngs)
        self.layers = nnx.List([JaxLayer(rngs) for _ in range(2)])
        self.out_proj = nnx.Linear(3, 2, use_bias=False, rngs=rngs)
        self.sinks = nnx.Param(jnp.zeros((2, 3, 4)))
        self.steps = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x):
        return x


def jax_model():
    return JaxModel(rngs=nnx.Rngs(0))


def linen_variables():
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    return nnx.bridge.to_linen(JaxModel).init(keys, jnp.zeros(2))


def cast(tree, dtype):
    """The same tree with its floats in another dtype."""
    return jax.tree.map(lambda a: a.astype(numpy_dtype(dtype)) if a.dtype == jnp.float32 else a, tree)


def linen_params_alone():
    """Linen parameters without collections, with the text keys that files have."""
    variables = linen_variables()
    params = variables["params"] | {"steps": variables["Variable"]["steps"]}
    return params | {"layers": {str(index): layer for index, layer in params["layers"].items()}}


HOLDERS = {
    "torch module": TorchModel,
    "torch state_dict": lambda: TorchModel().state_dict(),
    "numpy state_dict": lambda: {name: np.zeros_like(array) for name, array in random_weights().items()},
    "nnx module": jax_model,
    "nnx state": lambda: nnx.state(jax_model()),
    "nnx state of arrays": lambda: nnx.State(nnx.to_pure_dict(nnx.state(jax_model(), nnx.Not(nnx.RngState)))),
    "nnx pure dict": lambda: nnx.to_pure_dict(nnx.state(jax_model(), nnx.Not(nnx.RngState))),
    "linen variables": linen_variables,
    "linen params": linen_params_alone,
    "linen frozen": lambda: FrozenDict(linen_variables()),
}


def random_weights(dtype="float32", seed=0):
    """Random bits for each of the models' tensors, by canonical name."""
    shapes = {name: tuple(t.shape) for name, t in TorchModel().state_dict().items()}
    weights = {name: random_bits(shape, dtype, seed + i) for i, (name, shape) in enumerate(shapes.items())}
    return weights | {"steps": random_bits((), "int32", seed)}


def zeros(dtype="float32"):
    return {name: np.zeros_like(array) for name, array in random_weights(dtype).items()}


def read_back(holder, dtype="float32"):
    return transfer(holder, zeros(dtype))


class TestTransfer:
    @pytest.mark.parametrize("source", HOLDERS)
    @pytest.mark.parametrize("target", HOLDERS)
    def test_any_container_fills_any_other(self, source, target):
        weights = random_weights()
        given = transfer(weights, HOLDERS[source]())
        wanted = HOLDERS[target]()
        filled = transfer(given, wanted)
        assert bits(read_back(filled)) == bits(weights)
        assert type(filled) is type(wanted)
        if target.endswith("module"):
            assert filled is wanted
        else:
            assert jax.tree.structure(filled) == jax.tree.structure(wanted)
            assert list(map(type, jax.tree.leaves(filled))) == list(map(type, jax.tree.leaves(wanted)))

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_every_bit_pattern_survives_a_round_trip(self, dtype):
        weights = random_weights(dtype)
        torch_model = TorchModel().to(getattr(torch, dtype))
        nnx_model, variables = jax_model(), linen_variables()
        with jax.enable_x64(True):
            nnx.update(nnx_model, cast(nnx.state(nnx_model, nnx.Not(nnx.RngState)), dtype))
            variables = cast(variables, dtype)
        for first, second, third in (
            (torch_model, nnx_model, variables),
            (variables, nnx_model, torch_model),
        ):
            first = transfer(weights, first)
            second = transfer(first, second)
            third = transfer(second, third)
            assert bits(read_back(third, dtype)) == bits(weights)

    def test_negative_zero_and_nan_payloads_survive(self):
        special = np.array([0x8000, 0x7FA5, 0xFFC1, 0x7F80, 0x0001], np.uint16).view(ml_dtypes.bfloat16)
        crossed = transfer({"w": special}, {"w": torch.zeros(5, dtype=torch.bfloat16)})
        crossed = transfer(crossed, {"w": jnp.zeros(5, jnp.bfloat16)}, target_layout="jax_attention")
        assert np.asarray(crossed["w"]).tobytes() == special.tobytes()

    def test_source_tree_is_not_changed(self):
        for make in HOLDERS.values():
            target = make()
            if isinstance(target, torch.nn.Module | nnx.Module):
                continue
            before = bits(read_back(target))
            transfer(random_weights(), target)
            assert bits(read_back(target)) == before

    def test_target_shares_no_memory_with_the_source(self):
        for make in HOLDERS.values():
            weights = random_weights()
            filled = transfer(weights, make())
            for array in weights.values():
                array[...] = 0
            assert bits(read_back(filled)) == bits(random_weights())

    def test_random_state_is_kept(self):
        model = jax_model()
        model.layers[0].dropout.rngs()
        before = nnx.to_pure_dict(nnx.state(model, nnx.RngCount))
        state = transfer(TorchModel(), nnx.state(model))
        transfer(TorchModel(), model)
        assert nnx.to_pure_dict(nnx.state(model, nnx.RngCount)) == before
        assert state["layers"][0]["dropout"]["rngs"]["count"].get_value() == 1

    def test_abstract_module_gets_its_values(self):
        abstract = nnx.eval_shape(jax_model)
        weights = random_weights()
        with pytest.raises(TypeError, match=r"layers\.0\.norm\.bias is a shape and a dtype without values"):
            transfer(abstract, TorchModel())
        assert bits(read_back(transfer(weights, abstract))) == bits(weights)

    def test_meta_tensor_raises(self):
        with pytest.raises(TypeError, match="weight is on the meta device"):
            transfer(torch.nn.Linear(2, 3, device="meta"), torch.nn.Linear(2, 3))
        with pytest.raises(TypeError, match="weight is on the meta device"):
            transfer(torch.nn.Linear(2, 3), torch.nn.Linear(2, 3, device="meta"))

    def test_jax_arrays_keep_their_devices(self):
        loose = jnp.zeros(3)
        tied_down = jax.device_put(loose, jax.devices()[0])
        filled = transfer(
            {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)}, {"a": loose, "b": tied_down}
        )
        assert (filled["a"].committed, filled["b"].committed) == (False, True)
        assert filled["b"].sharding == tied_down.sharding

    def test_gradients_are_unchanged(self):
        model = TorchModel()
        transfer(random_weights(), model)
        assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
        parameters = transfer(random_weights(), dict(model.named_parameters()) | {"steps": model.steps})
        assert isinstance(parameters["sinks"], torch.nn.Parameter)

    def test_multihead_attention_is_detected_by_its_class(self):
        source, target = torch.nn.MultiheadAttention(6, 2), torch.nn.MultiheadAttention(6, 2)
        assert plan(source, target).source == plan(source, target).target == "torch.mha"
        transfer(source, target)
        torch.testing.assert_close(target.in_proj_weight, source.in_proj_weight, rtol=0, atol=0)

    def test_object_without_tensors_raises(self):
        with pytest.raises(TypeError, match="but got list"):
            transfer([np.ones(2)], {})
        with pytest.raises(TypeError, match="w is a float, not a torch tensor, JAX array or numpy array"):
            transfer({"w": 1.0}, {"w": np.ones(())})

    def test_two_leaves_of_one_name_raise(self):
        tree = {"layers": {0: {"bias": np.ones(2)}, "0": {"bias": np.ones(2)}}}
        with pytest.raises(ValueError, match=r"two leaves of the tree are called 'layers\.0\.bias'"):
            transfer(tree, {})


def plant_four_faults():
    weights = random_weights()
    del weights["layers.1.norm.bias"]
    weights["layers.2.norm.bias"] = np.zeros(3, np.float32)
    weights["layers.0.q_proj.weight"] = weights["layers.0.q_proj.weight"].T
    weights["sinks"] = np.zeros((2, 3, 4), np.float16)
    return weights


class TestStrictness:
    @pytest.mark.parametrize("target", HOLDERS)
    def test_all_faults_are_listed_and_nothing_is_written(self, target):
        wanted = HOLDERS[target]()
        before = bits(read_back(wanted))
        with pytest.raises(ConversionError) as caught:
            transfer(plant_four_faults(), wanted)
        assert bits(read_back(wanted)) == before

        kernel = next(fault for fault in caught.value.faults if fault.fault == "wrong shape")
        assert kernel.name.startswith("layers.0.q_proj.")
        assert set(caught.value.faults) - {kernel} == {
            ("layers.1.norm.bias", "missing", "(3,) float32", ""),
            ("layers.2.norm.bias", "unexpected", "no layers.2.norm.bias in the target", "(3,) float32"),
            ("sinks", "wrong dtype", "(2, 3, 4) float32", "(2, 3, 4) float16"),
        }
        sentence = str(caught.value).splitlines()[0]
        for part in ("nothing was written", "1 missing", "1 unexpected", "1 wrong shape", "1 wrong dtype"):
            assert part in sentence
        assert all(fault.name in str(caught.value) for fault in caught.value.faults)

    def test_plan_lists_the_same_faults_without_raising(self):
        report = plan(plant_four_faults(), jax_model())
        assert len(report.faults) == 4
        assert len(report.matched) == len(random_weights()) - 3
        assert "faults" in str(report)

    def test_missing_transpose_is_detected_where_shapes_differ(self):
        rules = tuple(
            Rule(rule.theirs, rule.hub) if "o i" in rule.pattern else rule for rule in JAX_ATTENTION.rules
        )
        with pytest.raises(ConversionError) as caught:
            transfer(TorchModel(), jax_model(), target_layout=Layout("no transpose", rules))
        assert {(fault.name, fault.fault) for fault in caught.value.faults} == {
            ("layers.0.q_proj.kernel", "wrong shape"),
            ("layers.1.q_proj.kernel", "wrong shape"),
            ("out_proj.kernel", "wrong shape"),
        }

    def test_wrong_layout_raises(self):
        with pytest.raises(ConversionError):
            transfer(TorchModel(), TorchModel(), source_layout="torch.mha")


class TorchTied(torch.nn.Module):
    def __init__(self, tied):
        super().__init__()
        self.second, self.first = torch.nn.Linear(2, 3), torch.nn.Linear(2, 3)
        if tied:
            self.second.weight = self.first.weight


class JaxTied(nnx.Module):
    def __init__(self, tied, *, rngs):
        self.second, self.first = nnx.Linear(2, 3, rngs=rngs), nnx.Linear(2, 3, rngs=rngs)
        if tied:
            self.second.kernel = self.first.kernel


class TestTiedWeights:
    def test_tied_weights_transfer_both_ways(self):
        torch_model, jax_model = TorchTied(tied=True), JaxTied(tied=True, rngs=nnx.Rngs(0))
        transfer(torch_model, jax_model)
        assert jax_model.first.kernel is jax_model.second.kernel
        back = transfer(jax_model, TorchTied(tied=True))
        assert back.first.weight is back.second.weight
        assert torch.equal(back.first.weight, torch_model.first.weight)

    def test_tied_weights_fill_separate_ones(self):
        torch_model = TorchTied(tied=True)
        jax_model = transfer(torch_model, JaxTied(tied=False, rngs=nnx.Rngs(0)))
        assert np.array_equal(jax_model.first.kernel[...], jax_model.second.kernel[...])
        transfer(torch_model, TorchTied(tied=False))

    def test_different_weights_do_not_fill_tied_ones(self):
        with pytest.raises(ConversionError, match="1 clash"):
            transfer(TorchTied(tied=False), TorchTied(tied=True))
        with pytest.raises(ConversionError, match="1 clash"):
            transfer(TorchTied(tied=False), JaxTied(tied=True, rngs=nnx.Rngs(0)))

    def test_report_names_the_tied_partner(self):
        report = plan(TorchTied(tied=True), JaxTied(tied=True, rngs=nnx.Rngs(0)))
        assert report.ignored == [("second.weight", "shares its tensor with first.weight")]
