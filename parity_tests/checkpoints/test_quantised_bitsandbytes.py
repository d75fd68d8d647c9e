"""bitsandbytes' int8, NF4 and FP4 against its own dequantisation, bit for bit (`fixtures/make_quantised.py`)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from attention_bridge.checkpoints.quantised.bnb_state import KINDS
from attention_bridge.errors import CheckpointError
from parity_tests.helpers import quantised as samples

FIXTURE = Path(__file__).parents[1] / "fixtures" / "quantised.safetensors"
CASES = {case: rest for case, *rest in samples.fixture(FIXTURE)}
STATE = f"{samples.WEIGHT}.quant_state.bitsandbytes__nf4"


@pytest.mark.parametrize("case", CASES)
def test_bits_are_those_of_the_reference(tmp_path, case):
    stored, expected, config, dtype = CASES[case]
    found = samples.read(tmp_path / "x.safetensors", stored, config, dtype=dtype)
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        samples.same_bits(found[name], tensor)


def test_fixture_has_every_kind():
    assert FIXTURE.stat().st_size < 200_000
    kinds = {case.split()[0] for case in CASES}
    assert kinds == {"nf4", "fp4", "int8", "llama", "gpt2"}
    for case in ("llama nf4", "llama int8", "gpt2 int8"):
        stored, expected, _, _ = CASES[case]
        quantised = [name for name in expected if stored[name].dtype != expected[name].dtype]
        assert len(quantised) == (4 if case.startswith("gpt2") else 7)


@pytest.mark.parametrize(
    "case", [case for case, (stored, *_) in CASES.items() if "x.weight.absmax" in stored]
)
def test_codes_in_another_dtype_have_the_same_bytes(tmp_path, case):
    """`bnb_4bit_quant_storage`, for FSDP."""
    stored, expected, config, dtype = CASES[case]
    weight = stored["x.weight"].reshape(-1)
    for storage in (torch.bfloat16, torch.float16, torch.float32):
        size = storage.itemsize
        if len(weight) % size:
            continue
        other = stored | {"x.weight": weight.view(storage).reshape(-1, 1)}
        found = samples.read(tmp_path / "x.safetensors", other, config, dtype=dtype)
        samples.same_bits(found["x.weight"], expected["x.weight"])


def test_values_are_rounded_to_the_dtype_before_quantisation_first(tmp_path):
    """As `model.dequantize()` does; rounding once gives other bits."""
    stored, expected, config, dtype = CASES["nf4 70x66 64 nested"]
    assert dtype == samples.BFLOAT16
    found = samples.read(tmp_path / "x.safetensors", stored, config, dtype=np.dtype(np.float32))
    samples.same_bits(found["x.weight"], expected["x.weight"].float())


def test_many_blocks_are_dequantised_in_parts(tmp_path, monkeypatch):
    from attention_bridge.checkpoints.quantised import bnb_4bit

    for case in ("nf4 70x66 64 nested", "fp4 9x31 64 plain", "nf4 5x7 32 plain"):
        stored, expected, config, dtype = CASES[case]
        monkeypatch.setattr(bnb_4bit, "TOGETHER", 200)
        found = samples.read(tmp_path / "x.safetensors", stored, config, dtype=dtype)
        samples.same_bits(found["x.weight"], expected["x.weight"])


def changed(**fields):
    """The NF4 sample with other fields of its quantisation state; None removes a field."""
    config, tensors = samples.sample("four_bits")
    state = json.loads(tensors[STATE].tobytes()) | fields
    state = {name: value for name, value in state.items() if value is not None}
    return config, tensors | {STATE: np.frombuffer(json.dumps(state).encode(), np.uint8)}


@pytest.mark.parametrize(
    ("fields", "part"),
    [
        ({"blocksize": 0}, "blocksize in "),
        ({"blocksize": 65}, "must be one of 32, 64, 128, 256, 512, 1024, 2048, 4096, got 65"),
        ({"blocksize": 64.0}, "got 64.0"),
        ({"blocksize": 32}, "absmax must be (5,) uint8, got (3,) uint8"),
        ({"shape": [10, 16]}, "must be a column of 80 bytes for (10, 16), got (75, 1) uint8"),
        ({"shape": [-10, 15]}, "shape in "),
        ({"shape": [10, "15"]}, "shape in "),
        ({"shape": []}, "shape in "),
        ({"shape": 150}, "shape in "),
        ({"dtype": "float64"}, "dtype in "),
        ({"dtype": None}, "got None"),
        ({"dtype": ["bfloat16"]}, "dtype in "),
        ({"quant_type": "fp4"}, "quant_type in "),
        ({"nested_blocksize": 0}, "nested_blocksize in "),
        ({"nested_blocksize": None}, "nested_blocksize in "),
        ({"nested_blocksize": 64}, "nested_absmax must be (1,) float32, got (2,) float32"),
        ({"nested_offset": float("nan")}, "a finite number, got nan"),
        ({"nested_offset": 10**400}, "a finite number"),
        ({"nested_offset": "0"}, "a finite number, got '0'"),
        ({"nested_dtype": "float16"}, "'float32', got 'float16'"),
        (
            {"nested_dtype": None, "nested_blocksize": None, "nested_offset": None},
            "absmax must be (3,) float32",
        ),
    ],
)
def test_unusable_state_is_refused(tmp_path, fields, part):
    config, tensors = changed(**fields)
    with pytest.raises(CheckpointError) as caught:
        samples.read(tmp_path / "x.safetensors", tensors, config)
    assert part in caught.value.whole, caught.value.whole


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"3", b"\xff\xfe", b"[" * 5000, b'{"shape": 1, "shape": 2}', b"1" * 9000]
)
def test_state_that_is_no_json_object_is_refused(tmp_path, content):
    config, tensors = samples.sample("four_bits")
    broken = tensors | {STATE: np.frombuffer(content, np.uint8)}
    with pytest.raises(CheckpointError, match=r"is no JSON|must have names"):
        samples.read(tmp_path / "x.safetensors", broken, config)


def test_other_values_of_the_codes_are_refused(tmp_path):
    config, tensors = samples.sample("four_bits")
    with pytest.raises(CheckpointError, match="must hold the 16 values of nf4"):
        samples.read(
            tmp_path / "x.safetensors", tensors | {f"{samples.WEIGHT}.quant_map": KINDS["fp4"]}, config
        )


@pytest.mark.parametrize("order", [1, 3])
def test_int8_of_another_order_is_refused(tmp_path, order):
    config, tensors = samples.sample("int8")
    name = f"{samples.WEIGHT}_format"
    with pytest.raises(CheckpointError, match="must be 0, the order by rows"):
        samples.read(tmp_path / "x.safetensors", tensors | {name: np.array(order, np.uint8)}, config)
