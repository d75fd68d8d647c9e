"""Folders of timm: outputs of timm itself, twins of transformers, and files that are saved as they were loaded.

The models of timm and their outputs are from `fixtures/make_timm_models.py`.
"""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from attention_bridge.errors import CheckpointError, ConversionError
from attention_bridge.pretrained import load_pretrained, save_pretrained
from attention_bridge.pretrained.families import read_config
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.pretrained.families.timm_architectures import _table
from attention_bridge.weights import convert
from parity_tests.helpers import families, family_cases, heads

FIXTURE = Path(__file__).parents[1] / "fixtures" / "timm_models.safetensors"
ARRAYS = {"torch": torch.from_numpy, "jax": jnp.asarray}
with safe_open(FIXTURE, "np") as file:
    CONFIGS = json.loads(file.metadata()["configs"])
U = 2.0**-24
# Twins: a model of transformers without a head; the layout, architecture and arguments of the same model in timm.
SHARED = {"embed_dim": 12, "depth": 2, "num_heads": 3, "img_size": [8, 12], "patch_size": [4, 3]}
SQUARE = {**SHARED, "img_size": 8, "patch_size": 4}
FINE = {"norm_layer": {"name": "LayerNorm", "eps": 1e-12}}
TWENTY = {"mlp_ratio": 20.2 / 12}  # hidden features
WIDE = {**SHARED, "embed_dim": 24, "mlp_ratio": 20.2 / 24}
cases = {name: case for each in family_cases.added_cases().values() for name, case in each.items()}
TWINS = {
    "deit": (
        replace(cases["deit"], model=partial(transformers.DeiTModel, add_pooling_layer=False)),
        ("timm.deit", "deit_tiny_distilled_patch16_224", {**SHARED, **TWENTY, **FINE}),
    ),
    "dinov2": (cases["dinov2"], ("timm.vit", "vit_base_patch14_dinov2", {**SQUARE, "mlp_ratio": 2})),
    "dinov2, gated": (
        replace(cases["dinov2, gated, classes"], model=transformers.Dinov2Model),
        (
            "timm.vit_glu",
            "vit_giant_patch14_dinov2",
            {**SHARED, "mlp_ratio": 32.2 / 12, "img_size": 9, "patch_size": 3},
        ),
    ),
    "dinov2, no biases": (
        cases["dinov2, no biases, no mask"],
        (
            "timm.vit",
            "vit_base_patch14_dinov2",
            {**SHARED, "mlp_ratio": 2, "img_size": 8, "patch_size": [4, 2], "act_layer": "relu"},
        ),
    ),
    "beit": (
        cases["beit"],
        ("timm.beit", "beit_base_patch16_224", {**SQUARE, **TWENTY, **FINE, "depth": 3}),
    ),
    "beit, shared positions": (
        cases["beit, shared positions, no scale"],
        (
            "timm.beit",
            "beit_base_patch16_224",
            {
                **SQUARE,
                **TWENTY,
                "depth": 3,
                "norm_layer": {"name": "LayerNorm", "eps": 0.1},
                "use_rel_pos_bias": False,
                "use_shared_rel_pos_bias": True,
                "init_values": None,
            },
        ),
    ),
    "dinov3_vit": (
        cases["dinov3_vit"],
        ("timm.eva", "vit_small_patch16_dinov3_qkvb", {**WIDE, "num_reg_tokens": 4, "global_pool": "token"}),
    ),
    "dinov3_vit, gated": (
        cases["dinov3_vit, gated, one register"],
        (
            "timm.eva_glu",
            "vit_small_plus_patch16_dinov3_qkvb",
            {**WIDE, "num_reg_tokens": 1, "swiglu_align_to": 2, "global_pool": "token"},
        ),
    ),
    "siglip": (
        family_cases.case.Case(
            "hf.siglip_vision",
            "image",
            transformers.SiglipVisionModel,
            transformers.SiglipVisionConfig,
            {**family_cases.case.IMAGE, "image_size": 8, "patch_size": 4},
        ),
        ("timm.vit", "vit_base_patch16_siglip_512", {**SQUARE, **TWENTY, "act_layer": "gelu_tanh"}),
    ),
}


def model_of(name):
    """The tensors of a model of timm in the fixture, and the outputs of timm."""
    whole = {key.partition("/")[2]: x for key, x in load_file(FIXTURE).items() if key.startswith(f"{name}/")}
    computed = {key.partition(".")[2]: x for key, x in whole.items() if key.startswith("computed.")}
    return {key: x for key, x in whole.items() if not key.startswith("computed.")}, computed


def write(folder, tensors, config):
    folder.mkdir(exist_ok=True)
    save_file({name: np.ascontiguousarray(x) for name, x in tensors.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def outputs(folder, image, framework):
    """The features of the last layer, and the logits or the pooled vector."""
    model = load_pretrained(folder, framework)
    found = model(ARRAYS[framework](np.ascontiguousarray(image.transpose(0, 2, 3, 1))))
    end = found.logits if hasattr(found, "logits") else found.pooled
    return families.numpy_of({"features": found.last_hidden_state, "output": end})


def bound(tensors):
    """4 u sqrt(n), with n the terms of all sums: each linear map, and scores and values of each layer."""
    maps = [x.shape[-1] for name, x in tensors.items() if x.ndim >= 2 and name.endswith("weight")]
    layers = sum(name.endswith("norm1.weight") for name in tensors)
    return 4 * U * float(np.sqrt(sum(maps) + layers * 2 * 12))


def error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


class TestOutputs:
    @pytest.mark.parametrize("framework", ARRAYS)
    @pytest.mark.parametrize("name", CONFIGS)
    def test_folder_gives_the_outputs_of_timm(self, name, framework, tmp_path):
        tensors, computed = model_of(name)
        found = outputs(write(tmp_path / "timm", tensors, CONFIGS[name]), computed["image"], framework)
        assert error(found["features"], computed["features"]) <= bound(tensors)
        if CONFIGS[name]["num_classes"] or found["output"].shape == computed["output"].shape:
            assert error(found["output"], computed["output"]) <= bound(tensors)

    @pytest.mark.parametrize("name", CONFIGS)
    def test_model_is_saved_byte_for_byte_as_loaded(self, name, tmp_path):
        folder = write(tmp_path / "timm", model_of(name)[0], CONFIGS[name])
        save_pretrained(load_pretrained(folder, "torch"), tmp_path / "saved", config=folder)
        assert heads.hashes(tmp_path / "saved") == heads.hashes(folder)

    @pytest.mark.parametrize("mirror", ["torch_attention", "jax_attention"])
    @pytest.mark.parametrize("name", CONFIGS)
    def test_round_trip_keeps_the_bytes(self, name, mirror):
        tensors, _ = model_of(name)
        reading = read_config(CONFIGS[name], Tensors(tensors, tensors.__getitem__))
        ours, report = convert(tensors, reading.layout, mirror, reading.axes)
        back, _ = convert(ours, mirror, reading.layout, reading.axes)
        assert not report.ignored
        assert {key: x.tobytes() for key, x in back.items()} == {
            key: x.tobytes() for key, x in tensors.items()
        }

    @pytest.mark.parametrize(
        ("name", "changes"),
        [
            ("deit3_small_patch16_224", {"num_heads": 4}),
            ("vit_giant_patch14_dinov2", {"act_layer": "gelu"}),
            ("vit_base_patch14_dinov2", {"norm_layer": {"name": "LayerNorm", "eps": 1e-3}}),
            ("vit_small_patch16_dinov3", {"rope_temperature": 10000.0}),
            ("vit_base_patch16_clip_quickgelu_224", {"act_layer": "gelu"}),
            ("vit_so400m_patch16_siglip_384", {"act_layer": "gelu"}),
            ("eva_giant_patch14_224", {"num_heads": 2}),
        ],
    )
    def test_other_arguments_are_detected(self, name, changes, tmp_path):
        tensors, computed = model_of(name)
        config = {**CONFIGS[name], "model_args": {**CONFIGS[name]["model_args"], **changes}}
        found = outputs(write(tmp_path / "timm", tensors, config), computed["image"], "torch")
        assert error(found["features"], computed["features"]) > 20 * bound(tensors)

    @pytest.mark.parametrize(
        ("name", "tensor", "parts"),
        [
            ("vit_base_patch14_dinov2", "blocks.1.attn.qkv.weight", 3),
            ("vit_giant_patch14_dinov2", "blocks.1.mlp.fc1.weight", 2),
            ("vit_so400m_patch16_siglip_384", "attn_pool.kv.weight", 2),
        ],
    )
    def test_other_order_in_a_fused_tensor_is_detected(self, name, tensor, parts, tmp_path):
        tensors, computed = model_of(name)
        first, *others = np.split(tensors[tensor], parts)
        wrong = {
            **tensors,
            tensor: np.concatenate([*others[::-1], first] if parts == 2 else [first, *others[::-1]]),
        }
        found = outputs(write(tmp_path / "timm", wrong, CONFIGS[name]), computed["image"], "torch")
        right = outputs(write(tmp_path / "right", tensors, CONFIGS[name]), computed["image"], "torch")
        assert error(found["output"], right["output"]) > 1000 * bound(tensors)


class TestTwins:
    @pytest.mark.parametrize("framework", ARRAYS)
    @pytest.mark.parametrize("name", TWINS)
    def test_tensors_of_transformers_in_the_names_of_timm_give_its_outputs(self, name, framework, tmp_path):
        case, (layout, architecture, arguments) = TWINS[name]
        theirs = families.model(case)
        theirs.save_pretrained(tmp_path / "theirs")  # its names in memory may be others
        tensors = load_file(tmp_path / "theirs" / "model.safetensors")
        reading = read_config(theirs.config.to_dict(), Tensors(tensors, tensors.__getitem__))
        renamed, report = convert(tensors, reading.layout, layout, reading.axes)
        config = {"architecture": architecture, "num_classes": 0, "model_args": arguments}
        image = families.inputs(case)["image"].astype(np.float32)
        folder = write(tmp_path / "timm", renamed, config)
        found = outputs(folder, image.transpose(0, 3, 1, 2), framework)
        expected = families.reference(case, theirs)
        assert error(found["features"], expected["output"]) <= families.bound(theirs)
        if "pooled" in expected:
            assert error(found["output"], expected["pooled"]) <= families.bound(theirs)
        back, _ = convert(renamed, layout, reading.layout, reading.axes)
        left = {note.name for note in report.ignored}
        kept = {reading.layout.canonical(key): x.tobytes() for key, x in tensors.items() if key not in left}
        assert {key: x.tobytes() for key, x in back.items()} == kept


class TestConfigurations:
    def test_architectures_are_read_or_refused_by_the_name_of_an_argument(self):
        """Every architecture of the table, with its own sizes."""
        refused = {}
        for name, arguments in _table().items():
            try:
                read_config({"architecture": name, "num_classes": 0})
            except CheckpointError as error:
                refused[name] = str(error)
                assert any(key in refused[name] for key in (*arguments, "swiglu_align_to")), refused[name]
        assert len(_table()) - len(refused) >= 150, refused
        assert not [name for name in refused if name.startswith(("deit", "beit_", "beitv2"))]
        assert not [name for name in refused if "dinov2" in name or "dinov3" in name or "siglip" in name]

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            (
                {"architecture": "vit_base_patch14_dinov1"},
                r"architecture of the \d+ Vision Transformers of timm, such",
            ),
            ({"architecture": "resnet50"}, r"architecture of the \d+ Vision Transformers of timm"),
            ({"architecture": "vit_tiny_patch16_224", "new": 1}, "not understood: new"),
            ({"architecture": "vit_tiny_patch16_224", "model_args": {"new": 1}}, "not understood: new"),
            (
                {"architecture": "vit_tiny_patch16_224", "model_args": {"qk_norm": True}},
                "qk_norm False, got True",
            ),
            (
                {"architecture": "vit_tiny_patch16_224", "model_args": {"norm_layer": "rmsnorm"}},
                "name LayerNorm",
            ),
            (
                {"architecture": "vit_tiny_patch16_224", "model_args": {"global_pool": "max"}},
                "global_pool token, avg",
            ),
            ({"architecture": "vit_tiny_patch16_224", "model_args": {"global_pool": "map"}}, "got map"),
            (
                {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {"input_size": [3, 8]}},
                "channels, height",
            ),
            ({"architecture": "eva02_large_patch14_clip_224"}, "scale_mlp False, got True"),
            ({"architecture": "vit_base_patch16_rope_mixed_224"}, "attn_type 'eva', got 'rope'"),
        ],
    )
    def test_what_is_not_understood_is_refused_by_name(self, config, message):
        with pytest.raises(CheckpointError, match=message):
            read_config(config)

    def test_size_of_images_is_that_of_the_file(self):
        given = {"architecture": "vit_tiny_patch16_224", "num_classes": 0}
        for described, size in (
            ({"input_size": [3, 384, 320], "fixed_input_size": True}, (384, 320)),
            ({"input_size": [3, 384, 320]}, (224, 224)),
        ):
            found = read_config({**given, "pretrained_cfg": described}).model.arguments["config"].arguments
            assert found["image_size"] == size
            flat = read_config({**given, **described}).model.arguments["config"].arguments  # of older files
            assert flat == found

    def test_tensor_of_another_architecture_is_a_fault(self, tmp_path):
        tensors, _ = model_of("deit3_small_patch16_224")
        name = "vit_base_patch14_dinov2"
        config = {**CONFIGS[name], "architecture": "vit_tiny_patch16_224"}
        with pytest.raises(ConversionError, match="do not fit its configuration"):
            load_pretrained(write(tmp_path / "timm", tensors, config), "torch")
