"""Layout tables: names and axes of each layout, round trips, and outputs equal to the source model."""

import os
import re

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import linen, nnx

import jax_attention
import torch_attention
from attention_bridge.errors import ConversionError
from attention_bridge.weights import convert, explain, plan, transfer
from attention_bridge.weights.explanation import words
from attention_bridge.weights.layouts import LAYOUTS
from jax_attention.models import Encoder as JaxEncoder
from jax_attention.models import EncoderConfig as JaxEncoderConfig
from parity_tests.helpers import families, heads
from torch_attention.models import Encoder as TorchEncoder
from torch_attention.models import EncoderConfig as TorchEncoderConfig

os.environ.setdefault("KERAS_BACKEND", "torch")

HUB = "torch_attention"
DTYPES = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn"]

SIZES = {
    "vocab_size": 23,
    "embed_dim": 6,
    "num_heads": 2,
    "num_layers": 2,
    "ffn_dim": 11,
    "max_len": 13,
    "num_types": 5,
}

# For each layout: source names and shapes, with the canonical name and shape of each.
MIRROR = {
    "token_embedding.embedding": ((7, 5), "token_embedding.weight", (7, 5)),
    "norm.scale": ((3,), "norm.weight", (3,)),
    "norm.bias": ((3,), "norm.bias", (3,)),
    "layers.0.attention.q_norm.scale": ((3,), "layers.0.attention.q_norm.weight", (3,)),
    "layers.0.attention.q_proj.kernel": ((5, 3), "layers.0.attention.q_proj.weight", (3, 5)),
    "layers.0.attention.q_proj.bias": ((3,), "layers.0.attention.q_proj.bias", (3,)),
    "layers.10.shift.kernel": ((2, 5, 3), "layers.10.shift.weight", (3, 5, 2)),
    "patches.kernel": ((2, 4, 5, 3), "patches.weight", (3, 5, 2, 4)),
    "kernel": ((5, 3), "weight", (3, 5)),
    "temperature": ((), "temperature", ()),
    "relative_positions": ((2, 3, 4), "relative_positions", (2, 3, 4)),
}
TORCH_MHA = {
    "in_proj_weight": ((15, 5), "q_proj.weight", (5, 5)),
    "in_proj_bias": ((15,), "q_proj.bias", (5,)),
    "out_proj.weight": ((5, 5), "out_proj.weight", (5, 5)),
    "out_proj.bias": ((5,), "out_proj.bias", (5,)),
    "bias_k": ((1, 1, 5), "memory_key", (1, 5)),
    "encoder.0.bias_v": ((1, 1, 5), "encoder.0.memory_value", (1, 5)),
    "encoder.0.q_proj_weight": ((5, 5), "encoder.0.q_proj.weight", (5, 5)),
    "encoder.0.k_proj_weight": ((5, 7), "encoder.0.k_proj.weight", (5, 7)),
    "encoder.0.v_proj_weight": ((5, 11), "encoder.0.v_proj.weight", (5, 11)),
}
HF_BERT = {
    "embeddings.word_embeddings.weight": ((23, 5), "token_embedding.weight", (23, 5)),
    "embeddings.position_embeddings.weight": ((13, 5), "position_embedding.weight", (13, 5)),
    "embeddings.token_type_embeddings.weight": ((2, 5), "type_embedding.weight", (2, 5)),
    "embeddings.LayerNorm.weight": ((5,), "embedding_norm.weight", (5,)),
    "embeddings.LayerNorm.bias": ((5,), "embedding_norm.bias", (5,)),
    "encoder.layer.1.attention.self.query.weight": ((5, 5), "layers.1.attention.q_proj.weight", (5, 5)),
    "encoder.layer.1.attention.self.key.bias": ((5,), "layers.1.attention.k_proj.bias", (5,)),
    "encoder.layer.1.attention.self.value.bias": ((5,), "layers.1.attention.v_proj.bias", (5,)),
    "encoder.layer.1.attention.output.dense.bias": ((5,), "layers.1.attention.out_proj.bias", (5,)),
    "encoder.layer.1.attention.output.LayerNorm.bias": ((5,), "layers.1.attention_norm.bias", (5,)),
    "encoder.layer.1.intermediate.dense.weight": ((11, 5), "layers.1.ffn.up_proj.weight", (11, 5)),
    "encoder.layer.1.output.dense.weight": ((5, 11), "layers.1.ffn.down_proj.weight", (5, 11)),
    "encoder.layer.1.output.LayerNorm.weight": ((5,), "layers.1.ffn_norm.weight", (5,)),
    "pooler.dense.bias": ((5,), "pooler.bias", (5,)),
}
HF_GPT2 = {
    "wte.weight": ((23, 5), "token_embedding.weight", (23, 5)),
    "wpe.weight": ((13, 5), "position_embedding.weight", (13, 5)),
    "h.1.ln_1.weight": ((5,), "layers.1.attention_norm.weight", (5,)),
    "h.1.attn.c_attn.weight": ((5, 15), "layers.1.attention.k_proj.weight", (5, 5)),
    "h.1.attn.c_attn.bias": ((15,), "layers.1.attention.v_proj.bias", (5,)),
    "h.1.attn.c_proj.weight": ((5, 5), "layers.1.attention.out_proj.weight", (5, 5)),
    "h.1.attn.c_proj.bias": ((5,), "layers.1.attention.out_proj.bias", (5,)),
    "h.1.ln_2.bias": ((5,), "layers.1.ffn_norm.bias", (5,)),
    "h.1.mlp.c_fc.weight": ((5, 11), "layers.1.ffn.up_proj.weight", (11, 5)),
    "h.1.mlp.c_fc.bias": ((11,), "layers.1.ffn.up_proj.bias", (11,)),
    "h.1.mlp.c_proj.weight": ((11, 5), "layers.1.ffn.down_proj.weight", (5, 11)),
    "h.1.mlp.c_proj.bias": ((5,), "layers.1.ffn.down_proj.bias", (5,)),
    "ln_f.weight": ((5,), "final_norm.weight", (5,)),
}
HEADS = {  # 3 heads of 2 features: 6 rows, with 5 and 7 input features
    "query.kernel": ((5, 3, 2), "q_proj.weight", (6, 5)),
    "query.bias": ((3, 2), "q_proj.bias", (6,)),
    "layers.0.key.kernel": ((7, 3, 2), "layers.0.k_proj.weight", (6, 7)),
    "layers.0.key.bias": ((3, 2), "layers.0.k_proj.bias", (6,)),
    "layers.0.value.kernel": ((7, 3, 2), "layers.0.v_proj.weight", (6, 7)),
}
FLAX_MHA = {
    **HEADS,
    "out.kernel": ((3, 2, 5), "out_proj.weight", (5, 6)),
    "layers.0.out.bias": ((5,), "layers.0.out_proj.bias", (5,)),
}
KERAS_MHA = {
    **HEADS,
    "attention_output.kernel": ((3, 2, 5), "out_proj.weight", (5, 6)),
    "layers.0.attention_output.bias": ((5,), "layers.0.out_proj.bias", (5,)),
}
EQUINOX_MHA = {
    "query_proj.weight": ((6, 5), "q_proj.weight", (6, 5)),
    "layers.0.key_proj.bias": ((6,), "layers.0.k_proj.bias", (6,)),
    "layers.0.value_proj.weight": ((6, 7), "layers.0.v_proj.weight", (6, 7)),
    "output_proj.weight": ((5, 6), "out_proj.weight", (5, 6)),
}
HAIKU_MHA = {
    "query.w": ((5, 6), "q_proj.weight", (6, 5)),
    "layers.0.key.w": ((7, 6), "layers.0.k_proj.weight", (6, 7)),
    "layers.0.value.b": ((6,), "layers.0.v_proj.bias", (6,)),
    "linear.w": ((6, 5), "out_proj.weight", (5, 6)),
    "linear.b": ((5,), "out_proj.bias", (5,)),
}
X_TRANSFORMERS = {
    "to_q.weight": ((6, 5), "q_proj.weight", (6, 5)),
    "layers.0.to_k.weight": ((6, 7), "layers.0.k_proj.weight", (6, 7)),
    "layers.0.to_v.weight": ((6, 7), "layers.0.v_proj.weight", (6, 7)),
    "to_out.weight": ((5, 6), "out_proj.weight", (5, 6)),
}
TORCH_ENCODER_LAYER = {
    "layers.1.self_attn.in_proj_weight": ((15, 5), "layers.1.attention.k_proj.weight", (5, 5)),
    "self_attn.in_proj_bias": ((15,), "attention.v_proj.bias", (5,)),
    "self_attn.out_proj.weight": ((5, 5), "attention.out_proj.weight", (5, 5)),
    "linear1.weight": ((7, 5), "ffn.up_proj.weight", (7, 5)),
    "layers.1.linear2.bias": ((5,), "layers.1.ffn.down_proj.bias", (5,)),
    "norm1.weight": ((5,), "attention_norm.weight", (5,)),
    "norm2.bias": ((5,), "ffn_norm.bias", (5,)),
    "norm.bias": ((5,), "final_norm.bias", (5,)),
}
TORCH_DECODER_LAYER = {
    "self_attn.in_proj_weight": ((15, 5), "self_attention.q_proj.weight", (5, 5)),
    "layers.1.multihead_attn.in_proj_weight": ((15, 5), "layers.1.cross_attention.k_proj.weight", (5, 5)),
    "multihead_attn.in_proj_bias": ((15,), "cross_attention.v_proj.bias", (5,)),
    "multihead_attn.out_proj.bias": ((5,), "cross_attention.out_proj.bias", (5,)),
    "linear1.bias": ((7,), "ffn.up_proj.bias", (7,)),
    "norm1.weight": ((5,), "self_norm.weight", (5,)),
    "norm2.weight": ((5,), "cross_norm.weight", (5,)),
    "norm3.weight": ((5,), "ffn_norm.weight", (5,)),
    "norm.weight": ((5,), "final_norm.weight", (5,)),
}
LINEN_SCAN = {
    "token_embedding.embedding": ((7, 5), "token_embedding.weight", (7, 5)),
    "layers.attention.q_proj.kernel": ((4, 5, 3), "layers.3.attention.q_proj.weight", (3, 5)),
    "layers.ffn_norm.scale": ((4, 5), "layers.2.ffn_norm.weight", (5,)),
}
EXAMPLES = {
    "torch_attention": {hub: (shape, hub, shape) for _, hub, shape in MIRROR.values()},
    "plain": {name: (shape, name, shape) for name, (shape, _, _) in MIRROR.items()},
    "jax_attention": MIRROR,
    "linen": MIRROR,
    "linen.scan": LINEN_SCAN,
    "torch.mha": TORCH_MHA,
    "torch.encoder_layer": TORCH_ENCODER_LAYER,
    "torch.decoder_layer": TORCH_DECODER_LAYER,
    "flax.nnx.mha": FLAX_MHA,
    "flax.linen.mha": FLAX_MHA,
    "keras.mha": KERAS_MHA,
    "keras.gqa": KERAS_MHA,
    "equinox.mha": EQUINOX_MHA,
    "haiku.mha": HAIKU_MHA,
    "x_transformers.attention": X_TRANSFORMERS,
    "hf.bert": HF_BERT,
    "hf.gpt2": HF_GPT2,
}


# Starts of the names of layouts that have tests of their own.
ELSEWHERE = ("timm.", "big_vision.", "vit_jax", "maxtext.", "tunix.", "bonsai.")

CUT = {"d": 2}  # the head dim, which the canonical shapes do not show
AXES = dict.fromkeys(("flax.nnx.mha", "flax.linen.mha", "keras.mha", "keras.gqa"), CUT)


def random_bits(shape, dtype, seed):
    dtype = np.dtype(getattr(ml_dtypes, dtype, dtype))
    count = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(count), dtype).reshape(shape)


def bits(tensors):
    return {name: (a.shape, a.dtype, a.tobytes()) for name, a in tensors.items()}


def example(layout, dtype="float32"):
    return {
        name: random_bits(shape, dtype, seed)
        for seed, (name, (shape, _, _)) in enumerate(EXAMPLES[layout].items())
    }


def randomize(module):
    """Fill all parameters with random values, biases and norms included."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return module.eval()


def bert_config(transformers):
    return transformers.BertConfig(
        vocab_size=SIZES["vocab_size"],
        hidden_size=SIZES["embed_dim"],
        num_attention_heads=SIZES["num_heads"],
        num_hidden_layers=SIZES["num_layers"],
        intermediate_size=SIZES["ffn_dim"],
        max_position_embeddings=SIZES["max_len"],
        type_vocab_size=SIZES["num_types"],
    )


class TestTables:
    def test_each_layout_has_an_example_here_or_whole_models(self):
        others = {"meta.llama", "gguf.llama", "gguf.qwen"}
        others |= {name for name in LAYOUTS if name.startswith(ELSEWHERE)}
        others |= {name for name in LAYOUTS if name.endswith("_stacked")}  # tried in test_expert_files.py
        whole = {case.layout for case in families.CASES.values()} | others | heads.ALONE
        assert EXAMPLES.keys() | whole == LAYOUTS.keys()
        assert list(LAYOUTS) == [layout.name for layout in LAYOUTS.values()]

    @pytest.mark.parametrize("layout", EXAMPLES)
    def test_canonical_names_and_shapes(self, layout):
        hub, report = convert(example(layout), layout, HUB)
        for name, (_, hub_name, hub_shape) in EXAMPLES[layout].items():
            assert hub[hub_name].shape == hub_shape
            assert (hub_name, (name,)) in [(match.target, match.given) for match in report.matched]

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("layout", EXAMPLES)
    def test_round_trip_is_byte_identical(self, layout, dtype):
        theirs = example(layout, dtype)
        hub, _ = convert(theirs, layout, HUB)
        back, _ = convert(hub, HUB, layout, AXES.get(layout))
        assert bits(back) == bits(theirs)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("layout", EXAMPLES)
    def test_round_trip_of_canonical_tensors_is_byte_identical(self, layout, dtype):
        hub, _ = convert(example(layout, dtype), layout, HUB)
        theirs, _ = convert(hub, HUB, layout, AXES.get(layout))
        back, _ = convert(theirs, layout, HUB)
        assert bits(back) == bits(hub)

    def test_kernels_are_transposed_not_reshaped(self):
        kernel = np.arange(15).reshape(5, 3)
        hub, _ = convert({"kernel": kernel}, "jax_attention", HUB)
        np.testing.assert_array_equal(hub["weight"], kernel.T)


class TestMirrors:
    @pytest.mark.slow
    @pytest.mark.parametrize("pooler", [True, False])
    def test_encoder_converts_and_gives_the_same_output(self, pooler):
        theirs = randomize(TorchEncoder(TorchEncoderConfig(**SIZES, pooler=pooler), dtype=torch.float64))
        tokens = np.random.default_rng(0).integers(0, 23, (3, 7))
        with jax.enable_x64(True):
            ours = JaxEncoder(
                JaxEncoderConfig(**SIZES, pooler=pooler), rngs=nnx.Rngs(0), param_dtype=jnp.float64
            )
            transfer(theirs, ours)
            output = np.asarray(ours(jnp.asarray(tokens), need_weights=True).output)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(tokens), need_weights=True).output.numpy()
        assert np.abs(output - expected).max() <= 1e-12 * np.abs(expected).max()

        back = transfer(ours, TorchEncoder(TorchEncoderConfig(**SIZES, pooler=pooler), dtype=torch.float64))
        assert all(torch.equal(a, b) for a, b in zip(back.parameters(), theirs.parameters(), strict=True))

    def test_linen_module_gives_the_same_output(self):
        theirs = randomize(torch_attention.MultiHeadSelfAttention(6, 2))
        ours = nnx.bridge.to_linen(jax_attention.MultiHeadSelfAttention, 6, 2)
        x = np.random.default_rng(0).normal(size=(3, 5, 6)).astype(np.float32)
        variables = transfer(theirs, ours.init(jax.random.key(0), jnp.asarray(x)))
        output = np.asarray(ours.apply(variables, jnp.asarray(x)).output)
        with torch.no_grad():
            expected = theirs(torch.from_numpy(x)).output.numpy()
        assert np.abs(output - expected).max() <= 1e-6 * np.abs(expected).max()


class TestTorchMha:
    @pytest.mark.parametrize("bias", [True, False])
    def test_mirrors_give_the_same_output(self, bias):
        theirs = randomize(
            torch.nn.MultiheadAttention(6, 2, bias=bias, batch_first=True, dtype=torch.float64)
        )
        ours = transfer(theirs, torch_attention.MultiHeadSelfAttention(6, 2, bias=bias, dtype=torch.float64))
        x = torch.randn(3, 5, 6, dtype=torch.float64)
        hidden = torch.rand(5, 5) > 0.5
        hidden.fill_diagonal_(False)
        with torch.no_grad():
            expected, weights = theirs(x, x, x, attn_mask=hidden, average_attn_weights=False)
            output = ours(x, ~hidden)
        torch.testing.assert_close(output.output, expected, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(output.weights, weights, rtol=1e-12, atol=1e-12)
        with jax.enable_x64(True):
            nnx_module = jax_attention.MultiHeadSelfAttention(
                6, 2, bias=bias, rngs=nnx.Rngs(0), param_dtype=jnp.float64
            )
            output = transfer(theirs, nnx_module)(jnp.asarray(x.numpy()), jnp.asarray(~hidden.numpy())).output
        np.testing.assert_allclose(np.asarray(output), expected.numpy(), rtol=1e-12, atol=1e-12)

    def test_separate_projections_survive_a_round_trip(self):
        theirs = torch.nn.MultiheadAttention(6, 2, kdim=5, vdim=7)
        hub, _ = convert(
            {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}, "torch.mha", HUB
        )
        assert {name: hub[f"{name}_proj.weight"].shape for name in "qkv"} == {
            "q": (6, 6),
            "k": (6, 5),
            "v": (6, 7),
        }
        assert "q_proj.bias" in hub
        back = transfer(hub, torch.nn.MultiheadAttention(6, 2, kdim=5, vdim=7))
        for name, tensor in back.state_dict().items():
            assert torch.equal(tensor, theirs.state_dict()[name])

    @pytest.mark.parametrize("masked", [False, True])
    def test_learned_extra_key_and_value_become_persistent_memory(self, masked):
        theirs = randomize(torch.nn.MultiheadAttention(6, 2, add_bias_kv=True, batch_first=True))
        x = torch.randn(3, 5, 6)
        hidden = torch.rand(5, 5) > 0.5
        hidden[1] = True  # a fully masked row attends to the learned key
        with torch.no_grad():
            expected, weights = theirs(
                x, x, x, attn_mask=hidden if masked else None, average_attn_weights=False
            )
        for package, _, array, factory in MIRROR_PACKAGES:
            ours = transfer(theirs, package.PersistentMemoryAttention(6, 2, **factory()))
            output = ours(array(x.numpy()), array(~hidden.numpy()) if masked else None)
            assert relative_error(output.output, expected.numpy()) <= 1e-6
            assert relative_error(output.weights, weights.numpy()) <= 1e-6
            back = transfer(
                ours, torch.nn.MultiheadAttention(6, 2, add_bias_kv=True), target_layout="torch.mha"
            )
            for name, tensor in back.state_dict().items():
                assert torch.equal(tensor, theirs.state_dict()[name])

    def test_learned_extra_key_needs_a_class_with_memory(self):
        theirs = torch.nn.MultiheadAttention(6, 2, add_bias_kv=True)
        with pytest.raises(ConversionError, match=r"bias_k +unexpected +no memory_key in the target"):
            transfer(theirs, torch_attention.MultiHeadSelfAttention(6, 2))
        report = plan(torch.nn.MultiheadAttention(6, 2), torch_attention.PersistentMemoryAttention(6, 2))
        assert {(fault.name, fault.fault) for fault in report.faults} == {
            ("memory_key", "missing"),
            ("memory_value", "missing"),
        }

    def test_several_memories_do_not_fit_torch(self):
        ours = torch_attention.PersistentMemoryAttention(6, 2, num_memories=3)
        with pytest.raises(ConversionError, match=r"memory_key"):
            transfer(ours, torch.nn.MultiheadAttention(6, 2, add_bias_kv=True))


class TestHfBert:
    def test_prefix_of_a_larger_model_is_optional(self):
        prefixed = {f"bert.{name}": array for name, array in example("hf.bert").items()}
        assert bits(convert(prefixed, "hf.bert", HUB)[0]) == bits(
            convert(example("hf.bert"), "hf.bert", HUB)[0]
        )

    def test_old_names_of_norms_are_known(self):
        old = {"bert.embeddings.LayerNorm.gamma": np.ones(5), "bert.embeddings.LayerNorm.beta": np.zeros(5)}
        assert list(convert(old, "hf.bert", HUB)[0]) == ["embedding_norm.weight", "embedding_norm.bias"]
        hub = {"embedding_norm.weight": np.ones(5), "embedding_norm.bias": np.ones(5)}
        filled = transfer(hub, old, target_layout="hf.bert")
        assert list(filled) == list(old)

    def test_positions_are_checked_and_regenerated(self):
        positions = np.arange(13).reshape(1, 13)
        hub, report = convert({"bert.embeddings.position_ids": positions}, "hf.bert", HUB)
        assert hub == {}
        assert report.ignored == [("bert.embeddings.position_ids", "always 0, 1, 2, ...")]
        with pytest.raises(ConversionError, match="1 wrong value"):
            convert({"embeddings.position_ids": positions[:, ::-1]}, "hf.bert", HUB)
        target = {"embeddings.position_ids": np.zeros((1, 13), np.int64)}
        assert plan({}, target, target_layout="hf.bert").synthesised == [
            ("embeddings.position_ids", "always 0, 1, 2, ...")
        ]
        filled = transfer({}, target, target_layout="hf.bert")
        np.testing.assert_array_equal(filled["embeddings.position_ids"], positions)

    def test_task_heads_are_dropped_and_others_are_unexpected(self):
        given = {"cls.predictions.bias": np.ones(23), "classifier.weight": np.ones((2, 5))}
        _, report = convert(given, "hf.bert", HUB)
        assert report.ignored == [(name, "dropped: a task head, not part of the encoder") for name in given]
        with pytest.raises(ConversionError, match=r"regressor\.weight +unexpected"):
            convert({"regressor.weight": np.ones((2, 5))}, "hf.bert", HUB)

    @pytest.mark.parametrize("pooler", [True, False])
    def test_both_mirrors_give_the_same_output(self, pooler):
        transformers = pytest.importorskip("transformers")
        theirs = transformers.BertModel(bert_config(transformers), add_pooling_layer=pooler)
        theirs = randomize(theirs.double())
        rng = np.random.default_rng(0)
        tokens, types = rng.integers(0, 23, (3, 7)), rng.integers(0, 5, (3, 7))
        keep = np.arange(7) < np.array([[7], [4], [2]])
        with torch.no_grad():
            expected = theirs(
                input_ids=torch.from_numpy(tokens),
                token_type_ids=torch.from_numpy(types),
                attention_mask=torch.from_numpy(keep).long(),
            )
        mask = keep[:, None, None, :]

        ours = TorchEncoder(TorchEncoderConfig(**SIZES, pooler=pooler), dtype=torch.float64).eval()
        transfer(theirs, ours, source_layout="hf.bert")
        with torch.no_grad():
            inputs = map(torch.from_numpy, (tokens, mask, types))
            from_torch = ours(*inputs, need_weights=True)
        with jax.enable_x64(True):
            ours = JaxEncoder(
                JaxEncoderConfig(**SIZES, pooler=pooler), rngs=nnx.Rngs(0), param_dtype=jnp.float64
            )
            transfer(theirs, ours, source_layout="hf.bert")
            from_jax = ours(*map(jnp.asarray, (tokens, mask, types)), need_weights=True)
        for output in (from_torch, from_jax):
            np.testing.assert_allclose(
                np.asarray(output.output), expected.last_hidden_state.numpy(), rtol=1e-12, atol=1e-12
            )
            if pooler:
                np.testing.assert_allclose(
                    np.asarray(output.pooled), expected.pooler_output.numpy(), rtol=1e-12, atol=1e-12
                )

        back = transfer(ours, theirs, target_layout="hf.bert")
        assert back is theirs

    def test_pretraining_model_gives_its_encoder(self):
        transformers = pytest.importorskip("transformers")
        theirs = transformers.BertForPreTraining(bert_config(transformers))
        ours = TorchEncoder(TorchEncoderConfig(**SIZES))
        report = plan(theirs, ours, source_layout="hf.bert")
        assert report.faults == []
        assert {note.name.split(".")[0] for note in report.ignored} == {"cls"}
        transfer(theirs, ours, source_layout="hf.bert")
        assert torch.equal(ours.pooler.weight, theirs.bert.pooler.dense.weight)


class TestGPT2:
    def test_masks_of_older_files_and_the_tied_head_are_checked_and_dropped(self):
        theirs = example("hf.gpt2")
        masks = {"h.1.attn.bias": np.tril(np.ones((1, 1, 3, 3))), "h.1.attn.masked_bias": np.array(-1e4)}
        head = {"lm_head.weight": theirs["wte.weight"]}
        named = {f"transformer.{name}": x for name, x in (theirs | masks).items()}
        converted, report = convert(named | head, "hf.gpt2", HUB)
        assert bits(converted) == bits(convert(theirs, "hf.gpt2", HUB)[0])
        assert len(report.ignored) == 3
        with pytest.raises(ConversionError, match=r"lm_head\.weight +wrong value +tied embeddings"):
            convert(named | {"lm_head.weight": head["lm_head.weight"][::-1]}, "hf.gpt2", HUB)

    def test_queries_keys_and_values_are_split_in_this_order(self):
        hub, _ = convert(theirs := example("hf.gpt2"), "hf.gpt2", HUB)
        for n, name in enumerate("qkv"):
            fused = theirs["h.1.attn.c_attn.weight"][:, 5 * n : 5 * (n + 1)]
            np.testing.assert_array_equal(hub[f"layers.1.attention.{name}_proj.weight"], fused.T)


class TestLayersOfOthers:
    """Layers of other libraries with the same weights and inputs: 3 heads of 4 features, float64."""

    EMBED, HEADS, HEAD_DIM = 12, 3, 4
    # For layers whose softmax is float32: 4 u sqrt(n), with n the sums over features, keys and features.
    SINGLE = 4 * 2.0**-24 * (12 + 4 + 5 + 12) ** 0.5

    def error(self, found, expected):
        return np.abs(found - expected).max() / np.abs(expected).max()

    @pytest.fixture
    def x(self, rng):
        return rng.standard_normal((2, 5, self.EMBED))

    def attend(self, hub, x, name="MultiHeadSelfAttention", **options):
        """The output of this package's class with canonical weights."""
        ours = getattr(torch_attention, name)(self.EMBED, self.HEADS, **options, dtype=torch.float64)
        with torch.no_grad():
            return transfer(hub, ours)(torch.from_numpy(x)).output.numpy()

    def randomised(self, shapes, rng):
        return {name: rng.standard_normal(shape) / 2 for name, shape in shapes.items()}

    def test_flax_nnx(self, x, rng):
        with jax.enable_x64(True):
            theirs = nnx.MultiHeadAttention(
                self.HEADS, self.EMBED, decode=False, rngs=nnx.Rngs(0), param_dtype=jnp.float64
            )
            nnx.update(
                theirs, jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape)), nnx.state(theirs))
            )
            state = {
                ".".join(map(str, path)): np.asarray(p[...])
                for path, p in nnx.to_flat_state(nnx.state(theirs))
            }
            expected = np.asarray(theirs(jnp.asarray(x)))
        hub, _ = convert(state, "flax.nnx.mha", HUB)
        assert self.error(self.attend(hub, x), expected) <= self.SINGLE
        back, _ = convert(hub, HUB, "flax.nnx.mha", {"d": self.HEAD_DIM})
        assert bits(back) == bits(state)

    def test_flax_linen(self, x, rng):
        with jax.enable_x64(True):
            theirs = linen.MultiHeadDotProductAttention(num_heads=self.HEADS, param_dtype=jnp.float64)
            shapes = jax.eval_shape(theirs.init, jax.random.key(0), jnp.asarray(x))
            variables = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape)), shapes)
            expected = np.asarray(theirs.apply(variables, jnp.asarray(x)))
        ours = torch_attention.MultiHeadSelfAttention(self.EMBED, self.HEADS, dtype=torch.float64)
        transfer(variables, ours, source_layout="flax.linen.mha")
        with torch.no_grad():
            found = ours(torch.from_numpy(x)).output.numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)

    @pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # raised by Keras
    @pytest.mark.parametrize("kind", ["mha", "gqa"])
    def test_keras(self, kind, x, rng):
        keras = pytest.importorskip("keras")
        if kind == "mha":
            theirs = keras.layers.MultiHeadAttention(self.HEADS, self.HEAD_DIM, dtype="float64")
            options = {}
        else:
            theirs = keras.layers.GroupQueryAttention(self.HEAD_DIM, self.HEADS, 1, dtype="float64")
            options = {"name": "GroupedQueryAttention", "num_kv_heads": 1}
        theirs(x, x)
        weights = {w.path: rng.standard_normal(tuple(w.shape)) for w in theirs.weights}
        for w in theirs.weights:
            w.assign(weights[w.path])
        expected = keras.ops.convert_to_numpy(theirs(x, x))
        named = {name.split("/", 1)[1]: w for name, w in weights.items()}
        hub, _ = convert(named, f"keras.{kind}", HUB)
        assert self.error(self.attend(hub, x, **options), expected) <= self.SINGLE

    def test_x_transformers(self, x, rng):
        attention = pytest.importorskip("x_transformers.x_transformers").Attention
        theirs = attention(self.EMBED, heads=self.HEADS, dim_head=self.HEAD_DIM).double().eval()
        state = self.randomised({name: p.shape for name, p in theirs.state_dict().items()}, rng)
        theirs.load_state_dict({name: torch.from_numpy(p) for name, p in state.items()})
        with torch.no_grad():
            expected = theirs(torch.from_numpy(x))
        expected = (expected[0] if isinstance(expected, tuple) else expected).numpy()
        hub, _ = convert(state, "x_transformers.attention", HUB)
        assert self.error(self.attend(hub, x, bias=False), expected) <= self.SINGLE

    @pytest.mark.parametrize("bias", [False, True])
    def test_equinox(self, bias, x, rng):
        eqx = pytest.importorskip("equinox")
        options = dict.fromkeys((f"use_{name}_bias" for name in ("query", "key", "value", "output")), bias)
        with jax.enable_x64(True):
            theirs = eqx.nn.MultiheadAttention(self.HEADS, self.EMBED, **options, key=jax.random.key(0))
            arrays, rest = eqx.partition(theirs, eqx.is_array)
            arrays = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape)), arrays)
            rows = jnp.asarray(x)
            expected = np.asarray(jax.vmap(eqx.combine(arrays, rest))(rows, rows, rows))
        leaves, _ = jax.tree_util.tree_flatten_with_path(arrays)
        state = {".".join(key.name for key in path): np.asarray(leaf) for path, leaf in leaves}
        assert len(state) == (8 if bias else 4)
        hub, _ = convert(state, "equinox.mha", HUB)
        assert self.error(self.attend(hub, x, bias=bias), expected) <= self.SINGLE
        back, _ = convert(hub, HUB, "equinox.mha")
        assert bits(back) == bits(state)

    def test_haiku(self, x, rng):
        hk = pytest.importorskip("haiku")
        with jax.enable_x64(True):
            theirs = hk.transform(
                lambda x: hk.MultiHeadAttention(
                    self.HEADS, self.HEAD_DIM, w_init=hk.initializers.VarianceScaling()
                )(x, x, x)
            )
            shapes = jax.eval_shape(theirs.init, jax.random.key(0), jnp.asarray(x))
            params = jax.tree.map(lambda p: jnp.asarray(rng.standard_normal(p.shape)), shapes)
            expected = np.asarray(theirs.apply(params, None, jnp.asarray(x)))
        state = {
            f"{module.removeprefix('multi_head_attention/')}.{name}": np.asarray(leaf)
            for module, tensors in params.items()
            for name, leaf in tensors.items()
        }
        hub, _ = convert(state, "haiku.mha", HUB)
        np.testing.assert_allclose(self.attend(hub, x), expected, rtol=1e-12, atol=1e-12)
        back, _ = convert(hub, HUB, "haiku.mha")
        assert bits(back) == bits(state)

    def test_heads_in_another_order_are_detected(self, x, rng):
        shapes = {"query.kernel": (12, 3, 4), "key.kernel": (12, 3, 4), "value.kernel": (12, 3, 4)}
        theirs = self.randomised(shapes | {"out.kernel": (3, 4, 12)}, rng)
        swapped = theirs | {"query.kernel": np.ascontiguousarray(theirs["query.kernel"][:, ::-1])}
        outputs = [
            self.attend(convert(each, "flax.nnx.mha", HUB)[0], x, bias=False) for each in (theirs, swapped)
        ]
        assert np.abs(outputs[0] - outputs[1]).max() > 1e-2

    def test_norms_of_heads_raise_and_the_head_dim_is_required(self):
        with pytest.raises(ConversionError, match=r"query_ln\.scale +refused +a per-head LayerNorm"):
            convert({"query_ln.scale": np.ones(4)}, "flax.nnx.mha", HUB)
        with pytest.raises(ConversionError, match="a size for h or d in axes"):
            convert({"q_proj.weight": np.ones((12, 12))}, HUB, "flax.nnx.mha")


@pytest.mark.slow
class TestTorchLayers:
    @pytest.mark.parametrize("norm_first", [False, True])
    def test_encoder_layer_gives_the_same_output_in_both_mirrors(self, norm_first):
        theirs = randomize(
            torch.nn.TransformerEncoderLayer(6, 2, 11, dropout=0.0, batch_first=True, norm_first=norm_first)
        )
        x = torch.randn(3, 5, 6)
        with torch.no_grad():
            expected = theirs(x).numpy()
        for package, models, array, factory in MIRROR_PACKAGES:
            config = models.EncoderConfig(7, 6, 2, 1, 11, 5, activation="relu", norm_eps=1e-5)
            layer = (
                package.ViTBlock(6, 2, 11, activation="relu", norm_eps=1e-5, **factory())
                if norm_first
                else models.EncoderLayer(config, **factory())
            )
            found = transfer(theirs, layer, source_layout="torch.encoder_layer")(array(x.numpy())).output
            assert relative_error(found, expected) <= 1e-6

    @pytest.mark.parametrize("norm_first", [False, True])
    def test_decoder_layer_gives_the_same_output_in_both_mirrors(self, norm_first):
        theirs = randomize(
            torch.nn.TransformerDecoderLayer(6, 2, 11, dropout=0.0, batch_first=True, norm_first=norm_first)
        )
        x, memory = torch.randn(3, 5, 6), torch.randn(3, 4, 6)
        hidden = torch.ones(5, 5, dtype=torch.bool).triu(1)
        with torch.no_grad():
            expected = theirs(x, memory, tgt_mask=hidden).numpy()
        for package, _, array, factory in MIRROR_PACKAGES:
            layer = package.EncoderDecoderAttention(6, 2, 11, norm_first=norm_first, **factory())
            transfer(theirs, layer, source_layout="torch.decoder_layer")
            found = layer(array(x.numpy()), array(memory.numpy())).output
            assert relative_error(found, expected) <= 1e-6


@pytest.mark.slow
class TestScannedLayers:
    def test_layers_scanned_by_linen_are_split(self):
        class Layer(linen.Module):
            @linen.compact
            def __call__(self, x, _):
                normed = linen.LayerNorm(epsilon=1e-5, use_fast_variance=False, name="ffn_norm")(x)
                hidden = linen.relu(linen.Dense(11, name="up_proj")(normed))
                return x + linen.Dense(6, name="down_proj")(hidden), None

        class Layers(linen.Module):
            @linen.compact
            def __call__(self, x):
                stack = linen.scan(Layer, variable_axes={"params": 0}, split_rngs={"params": True}, length=3)
                return stack(name="layers")(x, None)[0]

        x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
        variables = Layers().init(jax.random.key(0), jnp.asarray(x))
        expected = np.asarray(Layers().apply(variables, jnp.asarray(x)))
        flat = {f"params.{name}": np.asarray(leaf) for name, leaf in flatten(variables["params"]).items()}
        hub, _ = convert(flat, "linen.scan", HUB)
        found = torch.from_numpy(x)
        for index in range(3):
            own = {name: torch.tensor(a) for name, a in hub.items() if name.startswith(f"layers.{index}.")}
            weight = {name.removeprefix(f"layers.{index}."): a for name, a in own.items()}
            normed = F.layer_norm(found, (6,), weight["ffn_norm.weight"], weight["ffn_norm.bias"])
            hidden = F.relu(F.linear(normed, weight["up_proj.weight"], weight["up_proj.bias"]))
            found = found + F.linear(hidden, weight["down_proj.weight"], weight["down_proj.bias"])
        assert relative_error(found, expected) <= 3e-6
        back, _ = convert(hub, HUB, "linen.scan")
        assert bits(back) == bits({name.removeprefix("params."): a for name, a in flat.items()})

    def test_layer_with_a_missing_tensor_is_named(self):
        hub = {f"layers.{n}.norm.weight": np.ones(5) for n in range(3)} | {"layers.1.norm.bias": np.ones(5)}
        with pytest.raises(ConversionError, match=r"layers\.norm\.bias +missing .* of layers \[1\]"):
            convert(hub, HUB, "linen.scan")


class TestExplanations:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("... -> ...", "as it is"),
            ("i o -> o i", "transpose"),
            ("(three e) d -> three e d", "cut axis 0 into (three, e)"),
            (
                "e h d -> (h d) e",
                "reorder axes to (h, d, e), join (h, d) into axis 0",
            ),
            ("1 1 e -> e", "drop axis 0, of length 1, drop axis 1, of length 1"),
            ("e -> 1 e", "add axis 0, of length 1"),
            (
                "(h pair two) e -> (h two pair) e",
                "cut axis 0 into (h, pair, two), reorder axes to (h, two, pair, e), "
                "join (h, two, pair) into axis 0",
            ),
        ],
    )
    def test_pattern_is_described_in_words(self, pattern, expected):
        assert words(pattern) == expected

    def test_every_tensor_has_its_line(self):
        theirs = example("hf.gpt2")
        _, report = convert(theirs, "hf.gpt2", "jax_attention")
        text = explain(report)
        assert len(text.splitlines()) == 1 + len(report.matched)
        assert (
            "layers.1.attention.k_proj.kernel from h.1.attn.c_attn.weight: cut axis 1 into (three, o), "
            "reorder axes to (three, o, i); then transpose" in text
        )


MIRROR_PACKAGES = (
    (torch_attention, torch_attention.models, torch.from_numpy, dict),
    (jax_attention, jax_attention.models, jnp.asarray, lambda: {"rngs": nnx.Rngs(0)}),
)


def relative_error(found, expected):
    found = found.detach().numpy() if isinstance(found, torch.Tensor) else np.asarray(found)
    return np.abs(found - expected).max() / np.abs(expected).max()


def flatten(tree, path=""):
    if not isinstance(tree, dict):
        return {path: tree}
    below = (flatten(x, f"{path}.{name}" if path else name) for name, x in tree.items())
    return {name: leaf for leaves in below for name, leaf in leaves.items()}


def test_axis_names_mean_the_same_in_every_layout():
    """A head size given for one layout must not set another axis of a second layout."""
    reserved = {"h", "g", "d", "pair"}
    for layout in LAYOUTS.values():
        for move in layout.to_hub:
            used = reserved & set(re.findall(r"\b[a-z]+\b", move.pattern))
            assert not used or move.unknown_axes({}) or move.inverse().unknown_axes({}), (
                layout.name,
                move.pattern,
            )


def test_packed_projections_are_split_into_heads_in_one_conversion():
    packed = {"in_proj_weight": np.arange(96 * 32.0).reshape(96, 32)}
    kernels, _ = convert(packed, "torch.mha", "flax.nnx.mha", {"d": 8})
    expected = packed["in_proj_weight"][32:64].T.reshape(32, 4, 8)
    np.testing.assert_array_equal(kernels["key.kernel"], expected)
