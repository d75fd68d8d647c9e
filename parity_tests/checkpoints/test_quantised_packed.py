"""GPTQ and AWQ against the published packings, written here as plain loops, bit for bit."""

import ml_dtypes
import numpy as np
import pytest

from attention_bridge.checkpoints.quantised.gptq import WORDS
from attention_bridge.errors import CheckpointError
from parity_tests.helpers import quantised as samples

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
FLOATS = [np.float16, np.float32, ml_dtypes.bfloat16]


def bit_stream(numbers, bits):
    """Pack numbers into 32-bit words: bit by bit, the lowest first."""
    total = 0
    for place, number in enumerate(numbers):
        total |= int(number) << (bits * place)
    words = [(total >> start) & 0xFFFFFFFF for start in range(0, bits * len(numbers), 32)]
    return [word - 2**32 if word >= 2**31 else word for word in words]


def three_bits(numbers):
    """AutoGPTQ's own loop for 3 bits: 10 numbers, two halves of one, 10, two halves of one, 10."""
    words = []
    for base in range(0, len(numbers), 32):
        part = [int(number) for number in numbers[base : base + 32]]
        first = second = third = 0
        for place in range(10):
            first |= part[place] << (3 * place)
            second |= part[11 + place] << (3 * place + 1)
            third |= part[22 + place] << (3 * place + 2)
        first |= part[10] << 30
        second |= (part[10] >> 2) & 1 | part[21] << 31
        third |= (part[21] >> 1) & 3
        words += [first & 0xFFFFFFFF, second & 0xFFFFFFFF, third & 0xFFFFFFFF]
    return [word - 2**32 if word >= 2**31 else word for word in words]


def packed_rows(matrix, bits):
    return np.array([bit_stream(row, bits) for row in matrix], np.int32)


class Weight:
    """Random codes, zeros, scales and groups, and the tensors of a GPTQ checkpoint."""

    def __init__(self, bits, groups, outputs, size, dtype, lowest_zero=1, seed=0):
        rng = np.random.default_rng([bits, seed])
        self.bits, self.size = bits, size
        self.codes = rng.integers(0, 2**bits, (groups * size, outputs))
        self.zeros = rng.integers(lowest_zero, 2**bits, (groups, outputs))
        self.scales = (rng.random((groups, outputs)) - 0.3).astype(dtype)
        self.groups = rng.permutation(np.arange(groups * size) // size).astype(np.int32)

    def stored(self, zeros, in_order=False):
        tensors = {
            "x.qweight": np.ascontiguousarray(packed_rows(self.codes.T, self.bits).T),
            "x.qzeros": zeros,
            "x.scales": self.scales,
            "x.g_idx": self.groups,
        }
        return {name: array for name, array in tensors.items() if name != "x.g_idx" or not in_order}

    def expected(self, in_order=False):
        """The formula as loops: each product is rounded to the dtype of the scales."""
        inputs, outputs = self.codes.shape
        result = np.empty((outputs, inputs), self.scales.dtype)
        for row in range(inputs):
            group = row // self.size if in_order else self.groups[row]
            for column in range(outputs):
                number = np.float32(int(self.codes[row, column]) - int(self.zeros[group, column]))
                result[column, row] = self.scales[group, column].astype(np.float32) * number
        return result

    def config(self, **fields):
        return {"quant_method": "gptq", "bits": self.bits, "group_size": self.size, **fields}


def read(tmp_path, tensors, config, dtype):
    return samples.read(tmp_path / "x.safetensors", tensors, config, dtype=np.dtype(dtype))["x.weight"]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
class TestGPTQ:
    def test_version_1_stores_zeros_less_one(self, tmp_path, bits, dtype):
        weight = Weight(bits, 3, 64, 32, dtype, lowest_zero=0)
        tensors = weight.stored(packed_rows((weight.zeros - 1) % 2**bits, bits))
        samples.same_bits(read(tmp_path, tensors, weight.config(), dtype), weight.expected())
        told = weight.config(checkpoint_format="gptq", meta={"quantizer": "auto_gptq:0.7"})
        samples.same_bits(read(tmp_path, tensors, told, dtype), weight.expected())

    def test_version_2_stores_zeros(self, tmp_path, bits, dtype):
        weight = Weight(bits, 3, 64, 32, dtype, lowest_zero=0)
        tensors = weight.stored(packed_rows(weight.zeros, bits))
        for fields in ({"checkpoint_format": "gptq_v2"}, {"format": "GPTQ_V2"}):
            samples.same_bits(read(tmp_path, tensors, weight.config(**fields), dtype), weight.expected())
        wrong = read(tmp_path, tensors, weight.config(), dtype)
        assert (wrong != weight.expected()).any()

    def test_version_1_of_gptqmodel_subtracts_from_words(self, tmp_path, bits, dtype):
        """Also where a zero of 0 borrows from the next one."""
        weight = Weight(bits, 3, 96, 32, dtype, lowest_zero=0)
        weight.zeros[0, 0] = 0
        words = packed_rows(weight.zeros, bits).view(np.uint32)
        for column in range(words.shape[1]):
            words[:, column] -= np.uint32(WORDS[bits][column % len(WORDS[bits])])
        tensors = weight.stored(words.view(np.int32))
        for quantizer in (["optimum:1.24.0", "gptqmodel:1.4.4"], "gptqmodel:2.0"):
            config = weight.config(meta={"quantizer": quantizer})
            samples.same_bits(read(tmp_path, tensors, config, dtype), weight.expected())
        assert (read(tmp_path, tensors, weight.config(), dtype) != weight.expected()).any()

    def test_groups_in_order_need_no_index(self, tmp_path, bits, dtype):
        weight = Weight(bits, 2, 32, 16, dtype)
        tensors = weight.stored(packed_rows(weight.zeros - 1, bits), in_order=True)
        expected = weight.expected(in_order=True)
        samples.same_bits(read(tmp_path, tensors, weight.config(), dtype), expected)
        assert (expected != weight.expected()).any()

    def test_one_group_for_all_inputs(self, tmp_path, bits, dtype):
        weight = Weight(bits, 1, 32, 64, dtype)
        tensors = weight.stored(packed_rows(weight.zeros - 1, bits), in_order=True)
        config = weight.config(group_size=-1)
        samples.same_bits(read(tmp_path, tensors, config, dtype), weight.expected())

    def test_modules_of_other_bits(self, tmp_path, bits, dtype):
        weight = Weight(bits, 3, 32, 32, dtype)
        tensors = weight.stored(packed_rows(weight.zeros - 1, bits))
        config = weight.config(dynamic={"x": {"bits": bits}}) | {"bits": 3 if bits == 4 else 4}
        samples.same_bits(read(tmp_path, tensors, config, dtype), weight.expected())
        del config["dynamic"]
        with pytest.raises(CheckpointError, match=r"x\.(qweight|qzeros) must "):
            read(tmp_path, tensors, config, dtype)

    def test_result_is_rounded_to_the_scales_dtype_first(self, tmp_path, bits, dtype):
        weight = Weight(bits, 3, 64, 32, dtype)
        tensors = weight.stored(packed_rows(weight.zeros - 1, bits))
        for other in FLOATS:
            expected = weight.expected().astype(other)
            samples.same_bits(read(tmp_path, tensors, weight.config(), other), expected)


def test_three_bits_in_the_order_of_autogptq():
    rng = np.random.default_rng(3)
    numbers = rng.integers(0, 8, 96)
    assert three_bits(numbers) == bit_stream(numbers, 3)


@pytest.mark.parametrize("place", [-4, 3, 2**31 - 1])
def test_group_out_of_range_is_refused(tmp_path, place):
    weight = Weight(4, 3, 32, 8, np.float16)
    weight.groups[5] = place
    with pytest.raises(CheckpointError, match=r"x\.g_idx must have groups "):
        read(tmp_path, weight.stored(packed_rows(weight.zeros - 1, 4)), weight.config(), np.float16)


def awq_words(matrix):
    """AutoAWQ's loop: eight columns in a word, in its order."""
    rows, columns = matrix.shape
    words = np.zeros((rows, columns // 8), np.int64)
    for column in range(columns // 8):
        for place, feature in enumerate(AWQ_ORDER):
            words[:, column] |= matrix[:, 8 * column + feature] << (4 * place)
    return words.astype(np.uint32).view(np.int32)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [8, 16, -1])
def test_awq_is_the_published_formula(tmp_path, dtype, size):
    weight = Weight(4, 1 if size == -1 else 3, 40, 24 if size == -1 else size, dtype, lowest_zero=0)
    tensors = {
        "x.qweight": awq_words(weight.codes),
        "x.qzeros": awq_words(weight.zeros),
        "x.scales": weight.scales,
    }
    config = samples.AWQ | {"group_size": size}
    expected = weight.expected(in_order=True)
    samples.same_bits(read(tmp_path, tensors, config, dtype), expected)
    old = {"quant_method": "awq", "w_bit": 4, "q_group_size": size, "version": "GEMM"}
    samples.same_bits(read(tmp_path, tensors, old, dtype), expected)
    for other in FLOATS:
        samples.same_bits(read(tmp_path, tensors, config, other), expected.astype(other))
    plain = tensors | {"x.qweight": packed_rows(weight.codes, 4)}
    assert (read(tmp_path, plain, config, dtype) != expected).any()


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_large_weights_are_dequantised_in_parts(tmp_path, monkeypatch, name):
    from attention_bridge.checkpoints.quantised import awq, gptq

    config, tensors = samples.sample(name)
    whole = samples.read(tmp_path / "x.safetensors", tensors, config)
    for module in (awq, gptq):
        monkeypatch.setattr(module, "step", lambda values: 5)
    parts = samples.read(tmp_path / "x.safetensors", tensors, config)
    samples.same_bits(parts[samples.WEIGHT], whole[samples.WEIGHT])
