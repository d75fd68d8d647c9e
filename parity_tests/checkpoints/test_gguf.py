"""Quantised tensors in GGUF files, against the package gguf: values, shapes, block by block, damage and refusals."""

import struct
import subprocess
import sys

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from attention_bridge import checkpoints, errors
from attention_bridge.checkpoints import gguf_blocks
from attention_bridge.checkpoints.gguf_types import DTYPES, QUANTISED
from attention_bridge.errors import CheckpointError, InputError
from parity_tests.helpers import plain_readers
from parity_tests.helpers.checkpoint_samples import bits, gguf_bytes, load, random_bits

UNREADABLE = {"Q8_1", "Q8_K", "Q1_0"}  # the package has no dequantiser for them
READABLE = sorted(blocks.name for blocks in QUANTISED.values() if blocks.name not in UNREADABLE)


def held(tensors):
    """Tensors in the form of the plain readers; a NaN is equal to any NaN."""
    return {
        name: (shape, dtype, np.nan_to_num(np.frombuffer(raw, np.float32), nan=7.0).tobytes())
        for name, (shape, dtype, raw) in tensors.items()
    }


def found(path):
    return held({name: (x.shape, x.dtype.name, x.tobytes()) for name, x in load(path).items()})


@pytest.mark.parametrize("kind", READABLE)
def test_values_are_those_of_the_package(tmp_path, kind):
    columns = 2 * gguf.GGML_QUANT_SIZES[Type[kind]][0]
    gguf_bytes(tmp_path / "x.gguf", {}, [("a", (3, 5, columns), kind), ("b", (columns,), kind)])
    tensors = found(tmp_path / "x.gguf")
    assert tensors == held(plain_readers.gguf(tmp_path / "x.gguf"))
    assert tensors["a"][0] == (3, 5, columns)
    assert any(np.frombuffer(tensors["a"][2], np.float32))


@pytest.mark.parametrize("values", [1, 65, 64 * 7, 2**22])
def test_values_do_not_depend_on_the_rows_read_at_a_time(tmp_path, monkeypatch, values):
    gguf_bytes(tmp_path / "x.gguf", {}, [("a", (2, 7, 64), "Q8_0")])
    expected = held(plain_readers.gguf(tmp_path / "x.gguf"))
    monkeypatch.setattr(gguf_blocks, "BLOCK", values)
    assert found(tmp_path / "x.gguf") == expected


def test_tensors_beside_quantised_ones_keep_their_dtype(tmp_path):
    plain = {"a": random_bits((2, 3), np.float16), "c": random_bits((5,), np.float64)}
    gguf_bytes(tmp_path / "x.gguf", plain, [("b", (2, 32), "Q4_0"), ("d", (0, 32), "Q4_0")])
    tensors = load(tmp_path / "x.gguf")
    assert bits({name: tensors[name] for name in plain}) == bits(plain)
    assert (tensors["b"].dtype, tensors["d"].shape) == (np.float32, (0, 32))
    tensors["b"][0, 0] = 1.0  # the array is the caller's


def test_every_type_of_the_package_is_known():
    for kind in Type:
        if kind.value in DTYPES:
            assert DTYPES[kind.value].itemsize == gguf.GGML_QUANT_SIZES[kind][1]
        else:
            assert QUANTISED[kind.value] == (kind.name, *gguf.GGML_QUANT_SIZES[kind])


@pytest.mark.parametrize("kind", sorted(UNREADABLE))
def test_type_without_a_dequantiser_is_named(tmp_path, kind):
    gguf_bytes(tmp_path / "x.gguf", {}, [("blk.0.w", (2, 256), kind)])
    with pytest.raises(
        CheckpointError,
        match=rf"blk\.0\.w is {kind}, which the installed package gguf cannot dequantise; a file",
    ):
        checkpoints.open(tmp_path / "x.gguf")


def test_package_is_asked_for_only_by_quantised_tensors(tmp_path, monkeypatch):
    gguf_bytes(tmp_path / "plain.gguf", {"a": random_bits((2, 3), np.float32)})
    gguf_bytes(tmp_path / "x.gguf", {}, [("a", (2, 32), "Q8_0")])
    monkeypatch.setattr(errors, "find_spec", lambda name: None)
    load(tmp_path / "plain.gguf")
    with pytest.raises(InputError, match=r"not installed: gguf; .* install gguf .* extra \[gguf\]\)$"):
        checkpoints.open(tmp_path / "x.gguf")


def header(shape, kind, data=b"", offset=0):
    """The bytes of a file with one tensor `w`."""
    head = b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + struct.pack("<Q", 1) + b"w"
    head += struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), kind, offset)
    return head + bytes(-len(head) % 32) + data


WRONG = {
    "rows": (header((2, 33), 8, bytes(70)), "w is Q8_0, whose rows hold a multiple of 32 values, and has rows of 33"),
    "no axes": (header((), 8, bytes(34)), "w is Q8_0, whose rows hold a multiple of 32 values, and has rows of 1"),
    "half a block": (header((2, 128), 12, bytes(144)), "w is Q4_K, whose rows hold a multiple of 256 values, and has"),
    "truncated": (header((2, 32), 8, bytes(67)), "it has 163 bytes, and w ends at 164"),
    "longer": (header((2, 32), 8, bytes(100)), "it has 196 bytes, and the last tensor that it lists ends at 164"),
    "endless": (header((2**62, 2**62, 32), 8, bytes(99)), "and w ends at"),
    "gap": (header((2, 32), 8, bytes(100), 32), "w begins at 128, but the tensor before it ends at 96"),
    "type": (header((2, 32), 4, bytes(68)), "w is of the unknown type 4"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_damaged_header_of_a_quantised_tensor(tmp_path, name):
    content, message = WRONG[name]
    (tmp_path / "x.gguf").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        checkpoints.open(tmp_path / "x.gguf")


def test_smallest_valid_file(tmp_path):
    (tmp_path / "x.gguf").write_bytes(header((2, 32), 8, bytes(68)))
    assert not load(tmp_path / "x.gguf")["w"].any()


@pytest.mark.slow
def test_memory_beside_the_values_is_small(tmp_path):
    """The values take 256 MiB, and a tensor is dequantised in parts."""
    gguf_bytes(tmp_path / "x.gguf", {}, [("a", (2**15, 2**11), "Q8_0")])
    code = (
        "import sys; from pathlib import Path; from attention_bridge import checkpoints; import gguf\n"
        "peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0]) // 1024\n"
        "reader = checkpoints.open(sys.argv[1])\n"
        "before = peak(); array = reader.read('a'); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.gguf"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 256 <= int(done.stdout) < 256 + 128
