"""MaxText's layouts: an independent reading of MaxText's tensors in NumPy gives the logits of transformers."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest
import torch

from attention_bridge.errors import ConversionError
from attention_bridge.pretrained.families import read_config
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights import ScaledRule, convert, explain, stream
from attention_bridge.weights.leaves import Spec
from parity_tests.helpers import families
from parity_tests.helpers.jax_decoders import Shape, logits

DIM, HEAD, U = 20, 6, 2.0**-24
ROOT = DIM**0.5
# Cases of transformers, the layout of MaxText, and MaxText's formulas for them.
MODELS = {
    "llama": ("maxtext.llama", {"rms_norm_eps": 1e-6}, Shape(2, 1.0, neighbours=True)),
    "qwen3": ("maxtext.qwen", {}, Shape(2, HEAD**-0.5)),
    "gemma2": (
        "maxtext.gemma2",
        {"query_pre_attn_scalar": HEAD},
        Shape(
            2, 1.0, gelu=True, logit_scale=1 / ROOT, sandwich=True, windows=(4, None), softcap=2.0, logit_softcap=3.0
        ),
    ),
    "gemma3": (
        "maxtext.gemma3",
        {"hidden_size": 36},  # its root has an exact bfloat16
        Shape(
            2, 9**-0.5, theta=100.0, gelu=True, logit_scale=1 / 6, sandwich=True, windows=(3, None),
            theta_of_windows=30.0, stretch=8.0,
        ),
    ),
}  # fmt: skip
SCANNED = ("llama", "qwen3", "gemma2")
NORMS = {
    "maxtext.llama": ("pre_self_attention_layer_norm", "post_self_attention_layer_norm"),
    "maxtext.qwen": ("pre_self_attention_layer_norm", "post_self_attention_layer_norm"),
    "maxtext.gemma2": (
        "pre_self_attention_norm", "pre_ffw_norm", "post_self_attention_norm", "post_ffw_norm",
    ),
    "maxtext.gemma3": (
        "pre_self_attention_norm", "pre_ffw_norm", "post_self_attention_norm", "post_ffw_norm",
    ),
}  # fmt: skip
OURS = ("attention_norm", "ffn_norm", "attention_output_norm", "ffn_output_norm")


@pytest.fixture(scope="module")
def made():
    """A function that returns the tensors of a model of transformers, its reading, and its logits."""
    found = {}

    def make(name):
        if name not in found:
            case = families.CASES[name]
            case = dataclasses.replace(case, fields={**case.fields, **MODELS[name][1]})
            model = families.model(case)
            tensors = {key: x.detach().numpy().copy() for key, x in model.state_dict().items()}
            reading = read_config(model.config.to_dict(), Tensors(tensors, tensors.__getitem__))
            with torch.no_grad():
                expected = model.double()(torch.from_numpy(tokens())).logits.numpy()
            found[name] = tensors, reading, expected, families.bound(model)
        return found[name]

    return make


def tokens():
    return np.random.default_rng(3).integers(0, families.VOCAB, (2, 7))


def read(tensors, layout, shape):
    """The logits of MaxText's tensors, one per layer, by their names."""
    wide = {name: x.astype(np.float64) for name, x in tensors.items()}

    def layer(n):
        start, end = f"decoder.layers_{n}.", ""
        if layout == "maxtext.gemma2":
            start, end = f"decoder.layers_{n // 2}.", ("_local", "_global")[n % 2]
        attention, mlp = f"{start}self_attention{end}.", f"{start}mlp{end}."
        named = {"q": "query", "k": "key", "v": "value", "o": "out"}
        t = {ours: wide[f"{attention}{theirs}.kernel"] for ours, theirs in named.items()}
        t |= {
            ours: wide[f"{mlp}{key}.kernel"]
            for ours, key in {"gate": "wi_0", "up": "wi_1", "down": "wo"}.items()
        }
        t |= {ours: wide[f"{start}{key}{end}.scale"] for ours, key in zip(OURS, NORMS[layout], strict=False)}
        if f"{attention}query_norm.scale" in wide:
            t |= {
                "q_norm": wide[f"{attention}query_norm.scale"],
                "k_norm": wide[f"{attention}key_norm.scale"],
            }
        return t

    head = wide.get("decoder.logits_dense.kernel")
    names = wide["token_embedder.embedding"], wide["decoder.decoder_norm.scale"], head
    return logits(layer, names, tokens(), shape)


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def close(found, expected):
    """Whether two values of a tensor differ by at most one unit in the last place."""
    step = np.spacing(np.maximum(np.abs(found), np.abs(expected)))
    return bool((np.abs(found - expected) <= step).all())


class TestDecoders:
    @pytest.mark.parametrize("name", MODELS)
    def test_reading_of_the_tensors_of_maxtext_gives_the_logits_of_transformers(self, made, name):
        tensors, reading, expected, bound = made(name)
        layout, _, shape = MODELS[name]
        theirs, _ = convert(tensors, reading.layout, layout, reading.axes)
        assert error(read(theirs, layout, shape), expected) <= bound

    @pytest.mark.parametrize("name", MODELS)
    def test_round_trip_changes_the_last_place_at_most(self, made, name):
        tensors, reading, _, _ = made(name)
        layout = MODELS[name][0]
        theirs, report = convert(tensors, reading.layout, layout, reading.axes)
        back, _ = convert(theirs, layout, reading.layout, reading.axes)
        left = {note.name for note in report.ignored}
        assert back.keys() == tensors.keys() - left
        for key, x in back.items():
            if "norm" in key and layout.startswith("maxtext.gemma"):
                assert np.abs(x - tensors[key]).max() <= 2 * U * np.abs(1 + tensors[key]).max()
            elif layout == "maxtext.qwen" or not key.endswith(("q_proj.weight", "embed_tokens.weight")):
                assert x.tobytes() == tensors[key].tobytes()
            else:
                assert close(x, tensors[key])

    @pytest.mark.parametrize("name", SCANNED)
    def test_scanned_tensors_are_the_layers_on_axis_one(self, made, name):
        tensors, reading, _, _ = made(name)
        layout = MODELS[name][0]
        apart, _ = convert(tensors, reading.layout, layout, reading.axes)
        scanned, _ = convert(tensors, reading.layout, f"{layout}_scan", reading.axes)
        count = 1 if name == "gemma2" else 2
        for key, x in scanned.items():
            if "decoder.layers." in key:
                singles = [apart[key.replace("layers.", f"layers_{n}.")] for n in range(count)]
                assert np.array_equal(x, np.stack(singles, 1))
        given = {f"params.params.{key}": x for key, x in scanned.items()} | {"step": np.zeros(1)}
        back, _ = convert(given, f"{layout}_scan", layout, reading.axes)
        assert all(close(back[key], x) for key, x in apart.items())

    def test_stream_computes_as_convert_does(self, made):
        tensors, reading, _, _ = made("gemma2")
        theirs, _ = convert(tensors, reading.layout, "maxtext.gemma2_scan", reading.axes)
        specs = {key: Spec(x.shape, x.dtype) for key, x in theirs.items()}
        planned = stream(specs, theirs.__getitem__, "maxtext.gemma2_scan", "jax_attention", axes=reading.axes)
        whole, _ = convert(theirs, "maxtext.gemma2_scan", "jax_attention", reading.axes)
        assert {key: x.tobytes() for key, x in planned.items()} == {
            key: x.tobytes() for key, x in whole.items()
        }

    @pytest.mark.parametrize("change", ["scale", "neighbours", "norms", "embeddings"])
    def test_forgotten_convention_is_detected(self, made, change):
        name = "llama" if change == "neighbours" else "gemma2"
        tensors, reading, expected, bound = made(name)
        layout, _, shape = MODELS[name]
        theirs, _ = convert(tensors, reading.layout, layout, reading.axes)
        wrong = {
            "scale": {"scale": HEAD**-0.5},
            "neighbours": {"neighbours": False},
            "norms": {"offset": 1.0},
            "embeddings": {"embed_scale": ROOT},
        }[change]
        assert error(read(theirs, layout, dataclasses.replace(shape, **wrong)), expected) > 1000 * bound


class TestArithmetic:
    def test_explanation_names_it(self):
        tensors = {
            "token_embedder.embedding": np.ones((5, 12), np.float32),
            "decoder.decoder_norm.scale": np.ones(12),
        }
        _, report = convert(tensors, "maxtext.gemma3", "torch_attention")
        text = explain(report)
        assert "token_embedding.weight from token_embedder.embedding: as it is; then times e**-0.5" in text
        assert "final_norm.weight from decoder.decoder_norm.scale: plus -1" in text

    def test_divisor_of_gemma3_is_rounded_to_bfloat16(self):
        given = np.random.default_rng(0).standard_normal((5, 12)).astype(np.float32)
        hub, _ = convert({"token_embedder.embedding": given}, "maxtext.gemma3", "torch_attention")
        divisor = np.float64(ml_dtypes.bfloat16(12**0.5))
        assert np.array_equal(hub["token_embedding.weight"], (given / divisor).astype(np.float32))
        assert divisor != 12**0.5

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
    def test_power_of_two_keeps_the_bytes(self, dtype):
        dtype = getattr(ml_dtypes, dtype, dtype)
        query = np.random.default_rng(1).standard_normal((6, 3, 16)).astype(dtype)
        given = {"decoder.layers_0.self_attention.query.kernel": query}
        hub, _ = convert(given, "maxtext.llama", "torch_attention")
        back, _ = convert(hub, "torch_attention", "maxtext.llama", {"pair": 8})
        (found,) = back.values()
        assert found.tobytes() == query.tobytes()
        (ours,) = hub.values()
        assert float(ours[0, 0]) == 4 * float(query[0, 0, 0])

    def test_integers_are_refused(self):
        given = {"token_embedder.embedding": np.ones((5, 12), np.int8)}
        with pytest.raises(ConversionError, match="wrong shape"):
            convert(given, "maxtext.gemma2", "torch_attention")

    def test_head_size_is_needed_to_write_the_queries(self):
        hub = {"layers.0.attention.q_proj.weight": np.ones((12, 5), np.float32)}
        with pytest.raises(ConversionError, match="axis pair"):
            convert(hub, "torch_attention", "maxtext.llama", {"h": 2})

    def test_rule_of_several_tensors_is_refused(self):
        with pytest.raises(ValueError, match="one tensor on each side"):
            ScaledRule("qkv", "{q,k,v}", "(three o) -> three o", shift=1.0)
