"""Damaged quantised checkpoints: each is read as promised or refused in one sentence that names the file."""

import json

import ml_dtypes
import numpy as np
import pytest

from attention_bridge.checkpoints.quantised import dequantised, quantised_without_config
from attention_bridge.errors import CheckpointError
from parity_tests.helpers import quantised as samples

EVERY = list(samples.SAMPLES)
DTYPES = [np.int8, np.uint8, np.int32, np.int64, np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
DTYPES = [np.dtype(dtype) for dtype in [*DTYPES, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e8m0fnu, np.bool_]]
NUMBERS = [0, -1, 1, 3, 2**31, 2**70, 1.5, float("nan")]
VALUES = [None, True, *NUMBERS, "", "4", "gptq", [], [0], [4, 8], [4, -8], {}, {"x": 1}]


def outcome(path, tensors, config):
    """The tensors that are read, or None after a refusal in one sentence that no other error has caused."""
    try:
        return samples.read(path, tensors, config)
    except CheckpointError as error:
        refusal = error
    text = str(refusal)
    assert refusal.__cause__ is None or "is no JSON" in text, repr(refusal.__cause__)
    assert text.isprintable()
    assert len(text) <= 280
    assert text.startswith((str(path), "config.json "))
    return None


def random_array(rng, shape, dtype):
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.frombuffer(rng.bytes(count), np.uint8)
    return (raw % 2 if dtype == np.bool_ else raw).view(dtype).reshape(shape)


def damage(rng, tensors):
    """Change, remove or add one tensor of a quantised weight."""
    names = [name for name in tensors if "layers.0" in name and not name.endswith("bias")]
    name = names[rng.integers(len(names))]
    array, result = tensors[name], dict(tensors)
    match rng.integers(8):
        case 0:
            del result[name]
        case 1:
            result[name] = random_array(rng, array.shape, DTYPES[rng.integers(len(DTYPES))])
        case 2:
            shape = tuple(int(size) for size in rng.integers(0, 9, rng.integers(0, 5)))
            result[name] = random_array(rng, shape, array.dtype)
        case 3 if array.ndim:
            shape = list(array.shape)
            place = rng.integers(array.ndim)
            shape[place] = max(0, shape[place] + int(rng.choice([-1, 1, 2])))
            result[name] = random_array(rng, tuple(shape), array.dtype)
        case 4:
            result[name] = array.reshape(-1)
        case 5:
            result[name] = np.ascontiguousarray(array.T)
        case 6:
            result[name.replace("layers.0", "layers.3")] = array.copy()
        case _:
            result[name] = random_array(rng, array.shape, array.dtype)
    return result


@pytest.mark.parametrize("name", EVERY)
def test_random_damage_is_read_as_promised_or_refused(tmp_path, name):
    rng = np.random.default_rng(11)
    path = tmp_path / "x.safetensors"
    config, tensors = samples.sample(name)
    refused = 0
    for _ in range(150):
        changed = damage(rng, tensors)
        found = outcome(path, changed, config)
        refused += found is None
        if found is not None:  # nothing is lost, and nothing quantised passes
            assert {*found} == {key for key in changed if not samples.is_part(key)} | {
                samples.SAMPLES[name][2]
            }
    assert 50 < refused < 150


@pytest.mark.parametrize("name", EVERY)
def test_random_configurations_are_used_or_refused(tmp_path, name):
    rng = np.random.default_rng(5)
    path = tmp_path / "x.safetensors"
    config, tensors = samples.sample(name)
    fields = [*config, "format", "checkpoint_format", "meta", "dynamic", "expert_dtype", "backend", "w_bit"]
    for _ in range(100):
        field = fields[rng.integers(len(fields))]
        changed = config | {field: VALUES[rng.integers(len(VALUES))]}
        outcome(path, tensors, changed)


@pytest.mark.parametrize("seed", range(3))
def test_random_changes_of_a_quantisation_state(tmp_path, seed):
    rng = np.random.default_rng(seed)
    config, tensors = samples.sample("four_bits")
    name = next(name for name in tensors if "quant_state" in name)
    content = tensors[name].tobytes()
    for _ in range(60):
        if rng.integers(2):
            state = json.loads(content)
            state[[*state][rng.integers(len(state))]] = VALUES[rng.integers(len(VALUES))]
            changed = json.dumps(state).encode()
        else:
            changed = bytearray(content)
            changed[rng.integers(len(changed))] = rng.integers(256)
        outcome(tmp_path / "x.safetensors", tensors | {name: np.frombuffer(changed, np.uint8)}, config)


def test_one_sidecar_beside_its_codes_shows_quantisation():
    """Without `quantization_config`, even if all other sidecars are absent."""
    codes = (".weight", ".qweight", "_blocks")
    optional = ("weight_format", "g_idx", "quant_map", "nested_absmax")
    for name in EVERY:
        _, tensors = samples.sample(name)
        specs = {key: samples.spec(array) for key, array in tensors.items()}
        plain = {key: found for key, found in specs.items() if not samples.is_part(key)}
        assert quantised_without_config(plain) is None
        weights = {key: found for key, found in specs.items() if samples.is_part(key) and key.endswith(codes)}
        for key in specs.keys() - plain.keys() - weights.keys():
            if not key.endswith(optional):
                assert quantised_without_config(plain | weights | {key: specs[key]}), key


def test_file_that_shrinks_after_it_was_opened_is_refused(tmp_path):
    for name in EVERY:
        config, tensors = samples.sample(name)
        path = tmp_path / f"{name}.safetensors"
        reader = dequantised(samples.write(path, tensors), config)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match=str(path)):
            reader.read(samples.SAMPLES[name][2])
