"""Files of Big Vision: both mirrors and transformers give the outputs of an independent reading in NumPy."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from attention_bridge import checkpoints
from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build, jax_shapes
from attention_bridge.errors import ConversionError
from attention_bridge.weights import convert, transfer
from parity_tests.helpers import big_vision as reading

AXES = {"d": reading.WIDTH // reading.HEADS}
BOUND = 4 * 2.0**-24 * np.sqrt(reading.DEPTH * (5 * reading.WIDTH + 3 * reading.HIDDEN) + 60)
SIZES = {
    "image_size": reading.IMAGE,
    "patch_size": reading.PATCH,
    "in_channels": reading.CHANNELS,
    "embed_dim": reading.WIDTH,
    "num_heads": reading.HEADS,
    "num_layers": reading.DEPTH,
    "ffn_dim": reading.HIDDEN,
    "activation": "gelu_tanh",
}
POOLING = Part("LearnedPooling", {"num_heads": reading.HEADS, "ffn_dim": reading.HIDDEN})
OLD = (1, 2, 3)
# Layout, tensors, kind of pooling, and the options of the mirrors' model.
MODELS = {
    "map": ("big_vision.vit", reading.vit("map"), "map", {"class_token": False, "pooling": POOLING}),
    "gap": (
        "big_vision.vit",
        reading.vit("gap", pre_logits=True, seed=1),
        "gap",
        {"class_token": False, "pooling": Part("MeanPooling"), "pooler": True},
    ),
    "tok": ("big_vision.vit", reading.vit("tok", seed=2), "tok", {"class_position": False}),
    "tok, position of the class token": (
        "vit_jax",
        reading.vit("tok", pre_logits=True, numbers=OLD, seed=3),
        "tok",
        {"pooler": True},
    ),
}


def image():
    return np.random.default_rng(7).standard_normal((2, *reading.IMAGE, reading.CHANNELS)).astype(np.float32)


def tokens():
    return np.random.default_rng(8).integers(0, reading.VOCAB, (3, reading.LENGTH)).astype(np.int32)


def error(found, expected):
    return np.abs(np.asarray(found) - expected).max() / np.abs(expected).max()


def both(part, tensors, layout):
    """The model with these tensors in each mirror, and the function that makes its arrays."""
    yield transfer(tensors, build(part, "torch_attention", {}).eval(), source_layout=layout), torch.from_numpy
    ours = jax_shapes(part, {})
    ours.eval()
    yield transfer(tensors, ours, source_layout=layout), jnp.asarray


def bits(tensors):
    """Shapes and bytes by name; names have slashes in files and dots after a conversion."""
    return {name.replace("/", "."): (x.shape, x.tobytes()) for name, x in tensors.items()}


def errors(name, tensors):
    """The largest error of the patches' vectors and the logits in each mirror."""
    layout, right, pool, options = MODELS[name]
    numbers = OLD if layout == "vit_jax" else (0, 1, 0)
    expected = reading.look(right, image(), pool, numbers=numbers)
    config = Part("VisionTransformerConfig", {**SIZES, **options, "num_classes": reading.CLASSES})
    for model, array in both(Part("VisionTransformer", {"config": config}), tensors, layout):
        found = model(array(image()))
        parts = (x.detach().numpy() if isinstance(x, torch.Tensor) else x for x in found[:2])
        yield [error(x, y) for x, y in zip(parts, expected, strict=True)]


class TestVit:
    @pytest.mark.parametrize("name", MODELS)
    def test_both_mirrors_give_the_outputs_of_the_reading(self, name):
        for found in errors(name, MODELS[name][1]):
            assert max(found) <= BOUND

    @pytest.mark.parametrize("name", MODELS)
    def test_exchanged_tensors_are_detected(self, name):
        tensors = dict(MODELS[name][1])
        path = f"Transformer/encoderblock_1/MultiHeadDotProductAttention_{int('position' in name)}"
        query, key = f"{path}/query/kernel", f"{path}/value/kernel"
        tensors[query], tensors[key] = tensors[key], tensors[query]
        assert min(next(errors(name, tensors))) > 100 * BOUND

    @pytest.mark.parametrize("mirror", ["torch_attention", "jax_attention"])
    @pytest.mark.parametrize("name", MODELS)
    def test_round_trip_keeps_the_bytes(self, name, mirror):
        layout, tensors, _, _ = MODELS[name]
        ours, _ = convert(tensors, layout, mirror)
        back, _ = convert(ours, mirror, layout, AXES)
        assert bits(back) == bits(tensors)

    def test_scanned_layers_are_the_layers_one_by_one(self):
        tensors = MODELS["map"][1]
        ours, _ = convert(tensors, "big_vision.vit", "torch_attention")
        scanned, _ = convert(ours, "torch_attention", "big_vision.vit_scan", AXES)
        assert bits(scanned) == bits(reading.scanned(tensors))
        back, _ = convert(scanned, "big_vision.vit_scan", "big_vision.vit", AXES)
        assert bits(back) == bits(tensors)


class TestSiglip:
    def model(self):
        text = {
            "vocab_size": reading.VOCAB,
            "embed_dim": reading.WIDTH,
            "layers": (self.layer(),) * reading.DEPTH,
            "norm": Part("layer_norm", {"eps": 1e-6}),
            "max_len": reading.LENGTH,
            "tied": True,
            "is_causal": False,
        }
        looks = Part("VisionTransformerConfig", {**SIZES, "class_token": False, "pooling": POOLING})
        options = {"text_bias": True, "image_projection": False, "score_bias": True}
        options |= {"feature_dim": reading.FEATURES, "text_pooling": Part("LastPosition")}
        config = {"text": Part("ModelSpec", text), "image": looks, **options}
        return Part("ContrastiveModel", {"config": Part("ContrastiveConfig", config)})

    def layer(self):
        mixer = Part("MultiHeadSelfAttention", {"num_heads": reading.HEADS})
        ffn = Part("FeedForward", {"ffn_dim": reading.HIDDEN, "activation": "gelu_tanh"})
        norm = Part("layer_norm", {"eps": 1e-6})
        return Part("LayerSpec", {"mixer": mixer, "ffn": ffn, "arrangement": "pre", "norm": norm})

    @pytest.mark.parametrize("scan", [False, True])
    def test_both_mirrors_give_the_scores_of_the_reading(self, scan):
        tensors = reading.siglip()
        expected = reading.score(tensors, tokens(), image())
        given = reading.scanned(tensors) if scan else tensors
        layout = "big_vision.siglip_scan" if scan else "big_vision.siglip"
        for model, array in both(self.model(), given, layout):
            found = model(array(tokens()), array(image())).scores
            found = found.detach().numpy() if isinstance(found, torch.Tensor) else found
            assert error(found, expected) <= BOUND

    def test_npz_file_becomes_the_model_of_transformers_and_back(self, tmp_path, monkeypatch):
        monkeypatch.setattr(reading, "IMAGE", (8, 8))  # the reference has square images and patches alone
        monkeypatch.setattr(reading, "PATCH", (4, 4))
        tensors = {f"params/{name}": x for name, x in reading.siglip().items()}
        tensors["opt/0/mu/t"] = np.zeros(1, np.float32)
        np.savez(tmp_path / "siglip.npz", **tensors)
        with checkpoints.open(checkpoints.find(tmp_path / "siglip.npz")) as file:
            read = dict(file.items())
        theirs, report = convert(read, "big_vision.siglip", "hf.siglip")
        assert [note.name for note in report.ignored] == ["opt/0/mu/t"]
        model = self.twin()
        missing = model.load_state_dict(
            {k: torch.from_numpy(x.copy()) for k, x in theirs.items()}, strict=False
        )
        assert not missing.unexpected_keys
        assert all("position_ids" in name for name in missing.missing_keys)
        with torch.no_grad():
            looked = torch.from_numpy(image()).permute(0, 3, 1, 2).double()
            found = model.double()(torch.from_numpy(tokens()).long(), looked).logits_per_text.numpy()
        assert error(found, reading.score(reading.siglip(), tokens(), image())) <= 1e-12
        back, _ = convert(theirs, "hf.siglip", "big_vision.siglip", AXES)
        assert bits(back) == bits(reading.siglip())

    def twin(self):
        sizes = {"hidden_size": reading.WIDTH, "num_attention_heads": reading.HEADS}
        sizes |= {"num_hidden_layers": reading.DEPTH, "intermediate_size": reading.HIDDEN}
        text = {**sizes, "vocab_size": reading.VOCAB, "max_position_embeddings": reading.LENGTH}
        looks = {**sizes, "image_size": reading.IMAGE[0], "patch_size": reading.PATCH[0]}
        looks["num_channels"] = reading.CHANNELS
        none = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": None}
        config = transformers.SiglipConfig(
            text_config={**text, "projection_size": reading.FEATURES, **none}, vision_config=looks
        )
        return transformers.SiglipModel(config).eval()

    def test_positions_that_are_added_twice_are_refused(self):
        tensors = reading.siglip()
        tensors["txt/Encoder_0/pos_embedding"] = tensors["txt/pos_embedding"]
        with pytest.raises(ConversionError, match="added twice"):
            convert(tensors, "big_vision.siglip", "torch_attention")
