"""Random tensors for the checkpoint tests, and helpers that save and load them."""

import ml_dtypes
import numpy as np

from attention_bridge import checkpoints
from attention_bridge.checkpoints import Spec
from attention_bridge.checkpoints.dtypes import ALL

WRITTEN = {
    "safetensors": "x.safetensors",
    "torch": "x.pt",
    "npz": "x.npz",
    "msgpack": "x.msgpack",
    "orbax": "x",
    "keras": "x.weights.h5",
}
LACKING = {  # dtypes that a format does not support
    "safetensors": {"complex128"},
    "torch": set(),
    "npz": set(),
    "msgpack": set(),
    "orbax": set(),
    "keras": set(),
}
DTYPES = {dtype.name: dtype for dtype in ALL}


def random_bits(shape, dtype, seed=0):
    """An array of random bits, which for floats include NaNs of all kinds, infinities and subnormals."""
    dtype = np.dtype(dtype)
    count = int(np.prod(shape)) * dtype.itemsize
    raw = np.frombuffer(np.random.default_rng(seed).bytes(count), np.uint8)
    return (raw % 2 if dtype == np.bool_ else raw).view(dtype).reshape(shape)


def few():
    """Tensors of several dtypes and sizes."""
    return {
        "encoder.0.weight": random_bits((3, 5), np.float32, 1),
        "encoder.0.bias": random_bits((7,), ml_dtypes.bfloat16, 2),
        "größe": random_bits((2, 1, 11), np.int64, 3),
        "scale": random_bits((), np.float16, 4),
    }


def bits(tensors):
    """Everything that must be equal: names, shapes, dtypes and bytes."""
    return {name: (a.shape, a.dtype, a.tobytes()) for name, a in tensors.items()}


def specs_of(tensors):
    """Shapes and dtypes, as `save` takes them."""
    return {name: Spec(a.shape, a.dtype) for name, a in tensors.items()}


def save(path, tensors, **options):
    """Write tensors with `checkpoints.save`."""
    checkpoints.save(path, iter(tensors.items()), specs_of(tensors), **options)


def load(path):
    """Read tensors with `checkpoints.open`, and assert that they match the announced shapes and dtypes."""
    with checkpoints.open(path) as reader:
        tensors = {name: np.array(array) for name, array in reader.items()}
        assert specs_of(tensors) == dict(reader.specs)
    return tensors


def gguf_bytes(path, tensors, quantised=()):
    """Write a GGUF file with the package gguf, with metadata of every kind.

    Args:
        path: the file.
        tensors: arrays by name.
        quantised: further tensors: name, shape and type of each; they hold random bytes.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "test")
    writer.add_string("général.text", "wörter")
    writer.add_array("list.strings", ["a", "bc", ""])
    writer.add_array("list.numbers", [1, 2, 3])
    writer.add_uint32("one.u32", 7)
    writer.add_float64("one.f64", 0.5)
    writer.add_bool("one.bool", True)
    for name, tensor in tensors.items():
        if tensor.dtype == ml_dtypes.bfloat16:
            kind = gguf.GGMLQuantizationType.BF16
            writer.add_tensor(name, np.ascontiguousarray(tensor).view(np.uint8), raw_dtype=kind)
        else:
            writer.add_tensor(name, np.ascontiguousarray(tensor))
    for name, shape, word in quantised:
        kind = gguf.GGMLQuantizationType[word]
        stored = random_bits(gguf.quants.quant_shape_to_byte_shape(shape, kind), np.uint8)
        writer.add_tensor(name, stored, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()
