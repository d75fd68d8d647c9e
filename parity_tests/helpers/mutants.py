"""Damage to files: each function takes the bytes of a file and a generator, and returns changed bytes.

`mutated`, `swapped` and `extreme` are format-blind. The others parse a file, change one thing, and write the file again
with correct lengths and checksums, so that only the meaning is wrong.
"""

import ast
import copy
import io
import json
import pickle
import pickletools
import struct
import zipfile
import zlib

import msgpack
import numpy as np

TRICKY_NAMES = (
    "", ".", "..", "../up", "../../etc/passwd", "/absolute", "C:\\x", "a/../b", "a//b", "n" * 300, "nul\0byte",
    "line\nbreak", "\x1b[31mred", "\ud800", "\u202eright", "e\u0301", "__metadata__", "__dtypes__", "__proto__",
    "a.b", ".a", "a.", "a..b", "0", "-1", "x.npy", "data.pkl", "é" * 200,
)  # fmt: skip
TRICKY_VALUES = (
    None, True, False, 0, 1, -1, 2, 3, -3, 2.5, float("nan"), float("inf"), 1e300, 10**400, 2**31, 2**32, 2**53 + 1,
    2**63 - 1, 2**63, 2**64, 2**64 - 1, "", "x", "0", "F32", "F64", "I8", "BF16", "x" * 5000, [], [1], [0], [-1],
    [2**62, 4], [0, 2**63], [1, 1, 1], [[1]], [[None]] * 50, {}, {"x": 1}, {"rope_type": []}, {"rope_type": "yarn"},
)  # fmt: skip
EXTREMES = (
    0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63, 2**64 - 1,
)  # fmt: skip


def mutated(content, rng):
    """One to three random edits, often near the start: bits flipped, bytes overwritten, inserted or removed."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = len(changed) if rng.random() < 0.6 else min(len(changed), 64)
        at = int(rng.integers(0, size)) if size else 0
        width = int(rng.choice([1, 1, 2, 4, 8, 30]))
        noise = (
            rng.bytes(width) if rng.random() < 0.7 else bytes([int(rng.choice([0, 255, 127, 128]))]) * width
        )
        match int(rng.integers(0, 6)):
            case 0 if changed:
                changed[min(at, len(changed) - 1)] ^= 1 << int(rng.integers(0, 8))
            case 1:
                changed[at : at + width] = noise
            case 2:
                del changed[at:]
            case 3:
                changed[at:at] = noise
            case 4:
                changed[at:at] = changed[at : at + width]
            case _:
                del changed[at : at + width]
    return bytes(changed)


def swapped(content, rng):
    """Exchange two blocks of equal length."""
    width = int(rng.choice([1, 4, 8, 16, 64]))
    first, second = sorted(int(at) for at in rng.integers(0, max(1, len(content) - width), 2))
    second = max(second, first + width)
    middle = content[first + width : second]
    return (
        content[:first]
        + content[second : second + width]
        + middle
        + content[first : first + width]
        + content[second + width :]
    )


def extreme(content, rng):
    """Replace a number of two, four or eight bytes by an extreme of its range, or by about the length of the file."""
    width = int(rng.choice([2, 4, 8]))
    size = len(content) if rng.random() < 0.5 else min(len(content), 128)
    at = int(rng.integers(0, max(1, size - width)))
    at -= at % width if rng.random() < 0.7 else 0
    near = (len(content) - 1, len(content), len(content) + 1, len(content) - at)
    value = pick(rng, (*EXTREMES, *near)) % 256**width
    return content[:at] + value.to_bytes(width, "little") + content[at + width :]


def pick(rng, values):
    """A random one of some values."""
    return values[int(rng.integers(0, len(values)))]


class Pairs(list):
    """A JSON object or a msgpack map as pairs, so that keys may be repeated."""


def edited(tree, rng):
    """A tree of `Pairs`, lists and values after one to three edits, which include repeated and removed keys."""
    for _ in range(int(rng.integers(1, 4))):
        places = list(_places(tree))
        if not places:
            return as_pairs(pick(rng, TRICKY_VALUES))
        parent, at = pick(rng, places)
        named = isinstance(parent, Pairs)
        key, value = parent[at] if named else (None, parent[at])
        match int(rng.integers(0, 8)):
            case 0 | 1 | 2:
                new = as_pairs(pick(rng, TRICKY_VALUES))
            case 3 if type(value) is int:
                new = pick(rng, (value + 1, value - 1, 2 * value, -value, float(value % 2**60), [value]))
            case 4 if named:
                parent[at] = (pick(rng, TRICKY_NAMES), value)
                continue
            case 5:
                parent.insert(int(rng.integers(0, len(parent) + 1)), copy.deepcopy(parent[at]))  # repeated
                continue
            case 6:
                del parent[at]
                continue
            case _:
                other, there = pick(rng, places)
                new = copy.deepcopy(_value(other, there)) if there < len(other) else None
        parent[at] = (key, new) if named else new
    return tree


def _places(tree):
    if isinstance(tree, list):
        for at in range(len(tree)):
            yield tree, at
            yield from _places(_value(tree, at))


def as_pairs(value):
    """A copy in which dictionaries are `Pairs`."""
    if isinstance(value, dict):
        return Pairs((key, as_pairs(below)) for key, below in value.items())
    return [as_pairs(below) for below in value] if isinstance(value, list) else value


def json_text(tree):
    """A tree as JSON text, including invalid JSON: repeated keys, NaN, lone surrogates."""
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{json.dumps(str(key))}:{json_text(value)}" for key, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(json_text, tree)) + "]"
    if isinstance(tree, int) and not isinstance(tree, bool) and tree.bit_length() > 10000:
        return "9" * 5000
    return json.dumps(tree)


def json_edited(content, rng):
    """A JSON file with an edited structure."""
    return json_text(edited(json.loads(content, object_pairs_hook=Pairs), rng)).encode()


def safetensors_edited(content, rng):
    """A safetensors file with an edited header of correct length."""
    length = int.from_bytes(content[:8], "little")
    header = json_edited(content[8 : 8 + length], rng)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + content[8 + length :]


def msgpack_edited(content, rng):
    """A msgpack file with an edited tree, or with an edited shape, dtype or length of an array."""
    tree = msgpack.unpackb(content, object_pairs_hook=Pairs, raw=False)
    arrays = [(parent, at) for parent, at in _places(tree) if isinstance(_value(parent, at), msgpack.ExtType)]
    if arrays and rng.random() < 0.5:
        parent, at = pick(rng, arrays)
        kind, data = _value(parent, at)
        inner = msgpack.unpackb(data, raw=True, object_pairs_hook=Pairs)
        inner = edited(inner, rng) if isinstance(inner, list) else inner
        kind = pick(rng, (1, 1, 1, 1, 2, 3, 4, 42))
        new = msgpack.ExtType(kind, _packed(inner))
        parent[at] = (parent[at][0], new) if isinstance(parent, Pairs) else new
    else:
        tree = edited(tree, rng)
    return _packed(tree)


def _value(parent, at):
    return parent[at][1] if isinstance(parent, Pairs) else parent[at]


def _packed(tree):
    packer = msgpack.Packer(autoreset=False, use_bin_type=True, unicode_errors="surrogatepass")

    def put(node):
        if isinstance(node, Pairs):
            packer.pack_map_header(len(node))
            for key, value in node:
                put(key)
                put(value)
        elif isinstance(node, list | tuple) and not isinstance(node, msgpack.ExtType):
            packer.pack_array_header(len(node))
            for value in node:
                put(value)
        elif isinstance(node, dict):
            put(Pairs(node.items()))
        elif isinstance(node, int) and not -(2**63) <= node < 2**64:
            packer.pack(2**64 - 1)
        else:
            packer.pack(node)

    put(tree)
    return packer.bytes()


def npz_edited(content, rng):
    """An npz file with an edited array header, entry name or record of dtypes."""
    entries = zip_entries(content)
    at = int(rng.integers(0, len(entries)))
    name, data = entries[at]
    if rng.random() < 0.2:
        entries[at] = (pick(rng, TRICKY_NAMES) + pick(rng, ("", ".npy")), data)
    elif name.startswith("__"):
        text = str(np.lib.format.read_array(io.BytesIO(data)))
        file = io.BytesIO()
        np.lib.format.write_array(file, np.array(json_edited(text, rng).decode()))
        entries[at] = (name, file.getvalue())
    else:
        entries[at] = (name, _npy_edited(data, rng))
    return zip_of(entries, rng)


NPY_PARTS = {
    "'descr'": (
        "'<f8'", "'>f4'", "'|O'", "'<U4'", "'|V2'", "'|V99999999999'", "'<M8[s]'", "[('a','<f4')]", "3", "'<f4,'",
        "'('",
    ),
    "'fortran_order'": ("True", "False", "1", "None", "'x'"),
    "'shape'": (
        "()", "(0,)", "(1,)", "(-1,)", "(2, 0)", "(3, 5)", "(15,)", f"({2**62}, 4)", f"({2**64},)", "3", "(True,)",
        "(1.0,)", "None",
    ),
}  # fmt: skip


def _npy_edited(data, rng):
    length = int.from_bytes(data[8:10], "little")
    texts = {
        f"'{name}'": repr(value) for name, value in ast.literal_eval(data[10 : 10 + length].decode()).items()
    }
    key = pick(rng, list(NPY_PARTS))
    texts[key] = pick(rng, NPY_PARTS[key])
    if rng.random() < 0.1:
        texts["'more'"] = "1"
    if rng.random() < 0.1:
        del texts[pick(rng, list(texts))]
    new = ("{" + ", ".join(f"{name}: {value}" for name, value in texts.items()) + "}\n").encode("latin1")
    return data[:8] + len(new).to_bytes(2, "little") + new + data[10 + length :]


def pickle_edited(content, rng):
    """A file of torch.save with an edited number or text in its pickle; lengths and checksums are right."""
    entries = zip_entries(content)
    at = next(at for at, (name, _) in enumerate(entries) if name.endswith("/data.pkl"))
    name, data = entries[at]
    for _ in range(int(rng.integers(1, 3))):
        data = _pickle_edited(data, rng)
    entries[at] = (name, data)
    return zip_of(entries, rng, tricks=rng.random() < 0.1)


def _pickle_edited(data, rng):
    operations = list(pickletools.genops(data))
    ends = [position for _, _, position in operations[1:]] + [len(data)]
    kinds = ("BININT1", "BININT2", "BININT", "BINUNICODE", "NEWTRUE", "NEWFALSE")
    chosen = [at for at, (operation, _, _) in enumerate(operations) if operation.name in kinds]
    at = pick(rng, chosen)
    _, argument, start = operations[at]
    if isinstance(argument, str):
        others = [text for _, text, _ in operations if isinstance(text, str)]
        new = pick(rng, (*TRICKY_NAMES, *others)).encode("utf8", "surrogatepass")
        encoded = pickle.BINUNICODE + struct.pack("<I", len(new)) + new
    elif isinstance(argument, int):
        near = (argument + 1, argument - 1, 2 * argument, -argument)
        number = pick(rng, (0, 1, 2, 3, -5, 15, 16, 2**31 - 1, 2**31, 2**62, 2**63 - 1, 2**63, *near))
        encoded = pickle.dumps(number, 2)[2:-1]
    else:
        encoded = pick(rng, (pickle.NEWTRUE, pickle.NEWFALSE, pickle.NONE))
    return data[:start] + encoded + data[ends[at] :]


def zip_entries(content):
    """Names and contents of a zip file's entries."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def zip_edited(content, rng):
    """A zip file with the same entries and an inconsistent directory."""
    return zip_of(zip_entries(content), rng, tricks=True)


def zip_of(entries, rng, tricks=False):
    """A zip file written by hand; with tricks, one record is wrong or missing."""
    trick = int(rng.integers(0, 16)) if tricks else -1
    victim = int(rng.integers(0, len(entries)))
    file, directory, count = io.BytesIO(), [], 0
    if trick == 0:
        file.write(rng.bytes(int(rng.integers(1, 40))))
    first_start = None
    for at, (name, data) in enumerate(entries):
        mine = at == victim
        raw = name.encode("utf8", "surrogatepass")
        said = pick(rng, TRICKY_NAMES).encode("utf8", "surrogatepass") if mine and trick == 1 else raw
        packed, method = data, 0
        if mine and trick == 2:
            packed, method = zlib.compress(data)[2:-4], 8
        if mine and trick == 3:
            method = pick(rng, (1, 8, 12, 14, 93, 99))
        checksum = zlib.crc32(data) ^ (mine and trick == 4)
        size = pick(rng, EXTREMES) % 2**32 if mine and trick == 5 else len(data)
        flags = 0x800 | pick(rng, (1, 8, 0x20, 0x40, 0x2000)) if mine and trick == 6 else 0x800
        extra = struct.pack("<2H2Q", 1, 16, pick(rng, EXTREMES), len(packed)) if mine and trick == 7 else b""
        start = file.tell()
        first_start = start if first_start is None else first_start
        fields = (flags, method, 0, 33, checksum, len(packed), size)
        local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, *fields, len(raw), len(extra))
        file.write(local + raw + extra + packed)
        place = first_start if mine and trick == 8 else start
        comment = rng.bytes(int(rng.integers(1, 99))) if mine and trick == 9 else b""
        fields_of_extra = (b"\1\0\x10\0" + rng.bytes(16), b"\1\0\4\0", b"\xff" * 7)
        wide = pick(rng, fields_of_extra) if mine and trick == 10 else b""
        lengths = (len(said), len(wide), len(comment), 0, 0, 0)
        record = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *fields, *lengths, place)
        record += said + wide + comment
        if mine and trick == 11:
            continue  # in the file, but not in the directory
        repeated = 2 if mine and trick == 12 else 1
        directory += [record] * repeated
        count += repeated
    if trick == 13:
        directory.reverse()
    listed = b"".join(directory)
    start = file.tell()
    said_count = pick(rng, (0, count - 1, count + 1, 0xFFFF)) if trick == 14 else count
    said_size = len(listed) + pick(rng, (-46, -1, 1, 46)) if trick == 15 else len(listed)
    said = (0, 0, said_count, said_count, max(0, said_size), start, 0)
    file.write(listed + struct.pack("<4s4H2LH", b"PK\5\6", *said))
    return file.getvalue()


# Format-blind damage, which updates no checksums.
BLIND = (mutated, swapped, extreme)
