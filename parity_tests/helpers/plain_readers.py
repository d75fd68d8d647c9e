"""Plain readers of checkpoint formats, which share no code with the bridge.

Each returns name to (shape, dtype, bytes in C order and native byte order). An invalid file raises any exception; then
the bridge must raise too.
"""

import io
import json
import math
import pickletools
import struct
import zlib

import ml_dtypes
import msgpack
import numpy as np

SAFETENSORS = {
    "BOOL": "bool", "U8": "uint8", "U16": "uint16", "U32": "uint32", "U64": "uint64", "I8": "int8", "I16": "int16",
    "I32": "int32", "I64": "int64", "F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu", "C64": "complex64",
    "F8_E4M3FNUZ": "float8_e4m3fnuz", "F8_E5M2FNUZ": "float8_e5m2fnuz",
}  # fmt: skip


class DamagedError(ValueError):
    """A file that violates its format."""


def require(condition, message):
    if not condition:
        raise DamagedError(message)


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def held(array):
    """An array in comparable form."""
    array = np.asarray(array)
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array.shape, array.dtype.name, array.tobytes()


def once(pairs):
    require(len(dict(pairs)) == len(pairs), "a key comes twice")
    return dict(pairs)


def is_whole(value):
    return type(value) is int and value >= 0


def safetensors(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    require(8 + length <= len(raw), "the header ends after the file")
    header = json.loads(raw[8 : 8 + length], object_pairs_hook=once)
    data, found, places = raw[8 + length :], {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        start, end = entry["data_offsets"]
        require(all(map(is_whole, (start, end, *entry["shape"]))), "a number is none")
        dtype = dtype_of(SAFETENSORS[entry["dtype"]])
        require(math.prod(entry["shape"]) * dtype.itemsize == end - start, "a length is another")
        places.append((start, end))
        found[name] = (tuple(entry["shape"]), dtype.name, data[start:end])
    at = 0
    for start, end in sorted(places):
        require(start == at, "a hole or an overlap")
        at = end
    require(at == len(data), "bytes of no tensor")
    return found


def index(path, reader):
    content = json.loads(path.read_bytes(), object_pairs_hook=once)
    weight_map, found = content["weight_map"], {}
    for shard in sorted(set(weight_map.values())):
        require("/" not in shard, "a shard elsewhere")
        tensors = reader(path.parent / shard)
        require(set(tensors) == {name for name, other in weight_map.items() if other == shard}, "other names")
        found |= tensors
    require(set(found) == set(weight_map), "other names")
    return found


def zip_entries(raw):
    """The entries in the order of the file, checked against the directory at its end."""
    end = raw.rfind(b"PK\5\6")
    require(end >= 0, "no end record")
    count, size, start = struct.unpack_from("<H2L", raw, end + 10)
    if count == 0xFFFF or 0xFFFFFFFF in (size, start):
        at = struct.unpack_from("<Q", raw, end - 20 + 8)[0]
        count, size, start = struct.unpack_from("<3Q", raw, at + 32)
    listed, at = {}, start
    for _ in range(count):
        numbers = struct.unpack_from("<4s6H3L5H2L", raw, at)
        require(numbers[0] == b"PK\1\2", "no record")
        name = raw[at + 46 : at + 46 + numbers[10]]
        checksum, packed, unpacked, place = numbers[7], numbers[8], numbers[9], numbers[16]
        extra = raw[at + 46 + numbers[10] : at + 46 + numbers[10] + numbers[11]]
        wide = iter(_wide(extra))
        unpacked = next(wide) if unpacked == 0xFFFFFFFF else unpacked
        packed = next(wide) if packed == 0xFFFFFFFF else packed
        place = next(wide) if place == 0xFFFFFFFF else place
        require(place not in listed, "two records of one entry")
        listed[place] = (name, numbers[4], checksum, packed, unpacked)
        at += 46 + sum(numbers[10:13])
    found, at = {}, 0
    while at < start:
        numbers = struct.unpack_from("<4s5H3L2H", raw, at)
        require(numbers[0] == b"PK\3\4" and at in listed, "no entry, or one that is not listed")
        name, method, checksum, packed, unpacked = listed.pop(at)
        begin = at + 30 + numbers[9] + numbers[10]
        require(raw[at + 30 : at + 30 + numbers[9]] == name, "two names")
        data = raw[begin : begin + packed]
        data = zlib.decompress(data, -15) if method == 8 else data
        require(method in (0, 8), "an unknown method")
        require(len(data) == unpacked and zlib.crc32(data) == checksum, "a checksum")
        text = name.decode("utf8" if numbers[2] & 0x800 else "cp437")
        require(text not in found, "two entries of one name")
        found[text] = data
        at = begin + packed
        if numbers[2] & 8 and raw[at : at + 4] != b"PK\3\4" and at != start:
            at = next(
                at + n for n in (12, 16, 20, 24) if raw[at + n : at + n + 4] == b"PK\3\4" or at + n == start
            )
    require(not listed, "a record of no entry")
    return found


def _wide(extra):
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        if kind == 1:
            return struct.unpack_from(f"<{length // 8}Q", extra, 4)
        extra = extra[4 + length :]
    return ()


def npz(path):
    arrays = {}
    for name, data in zip_entries(path.read_bytes()).items():
        require(name.endswith(".npy"), "no array")
        file = io.BytesIO(data)
        arrays[name.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
        require(not file.read(1), "more bytes than an array has")
    noted = json.loads(str(arrays.pop("__dtypes__", "{}")), object_pairs_hook=once)
    arrays.pop("__metadata__", None)
    for name, dtype in noted.items():
        if name in arrays:
            arrays[name] = arrays[name].view(dtype_of(dtype))
    return {name: held(array) for name, array in arrays.items()}


def flat(tree, above=()):
    """The tensors of nested mappings and lists, by dotted name."""
    found = {}
    entries = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in entries:
        name = (*above, str(key))
        if isinstance(value, dict | list | tuple):
            below = flat(value, name)
        elif hasattr(value, "dtype"):
            below = {".".join(name): value}
        else:
            below = {}
        require(not below.keys() & found.keys(), "two tensors of one name")
        found |= below
    return found


def flax_msgpack(path):
    def decoded(code, data):
        require(code in (1, 2, 3), "an unknown type")
        if code == 2:
            return complex(*msgpack.unpackb(data)[:2])  # Flax reads only the first two
        shape, name, buffer = msgpack.unpackb(data, raw=True)
        array = np.frombuffer(buffer, dtype_of(name.decode())).reshape(shape)
        return array if code == 1 else array[()]

    tree = msgpack.unpackb(path.read_bytes(), object_pairs_hook=once, ext_hook=decoded, raw=False)
    return {name: held(array) for name, array in flat(tree).items()}


def torch_file(path):
    import torch

    raw = path.read_bytes()
    if raw[:4] == b"PK\3\4":
        [pickled] = [data for name, data in zip_entries(raw).items() if name.endswith("/data.pkl")]
        made = sum(operation.name == "BINPERSID" for operation, _, _ in pickletools.genops(pickled))
    else:
        made = 0
    tensors = flat(torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu"))
    require(len(tensors) >= made, "a tensor is lost")
    found = {}
    for name, tensor in tensors.items():
        array = torch.empty(tensor.shape, dtype=tensor.dtype).copy_(tensor.detach())
        bits = array.reshape(-1).view(torch.uint8).numpy().tobytes() if array.numel() else b""
        found[name] = (tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), bits)
    return found


def gguf(path):
    from gguf import GGMLQuantizationType, GGUFReader, dequantize

    found = {}
    for tensor in GGUFReader(path).tensors:
        kind = GGMLQuantizationType(tensor.tensor_type).name
        dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}.get(kind)
        dtype = dtype or (kind.lower().replace("i", "int") if kind in ("I8", "I16", "I32", "I64") else None)
        data = np.asarray(tensor.data)
        if dtype is None:
            with np.errstate(all="ignore"):
                dtype, data = "float32", dequantize(data, tensor.tensor_type)
        shape = tuple(int(size) for size in reversed(tensor.shape))
        found[tensor.name] = (shape, dtype, data.tobytes())
    return found


def keras(path):
    import h5py

    found = {}

    def visit(group, above):
        for key in group:
            require(isinstance(group.get(key, getlink=True), h5py.HardLink), "a link elsewhere")
            node = group[key]
            if isinstance(node, h5py.Group):
                visit(node, f"{above}{key}/")
            else:
                array = np.asarray(node[()])
                if array.dtype.kind == "V":
                    array = array.view(dtype_of(node.attrs["dtype"]))
                found[f"{above}{key}"] = held(array)

    with h5py.File(path) as file:
        visit(file, "")
    return found
