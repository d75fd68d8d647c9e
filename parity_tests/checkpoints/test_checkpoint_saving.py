"""Saving checkpoints: complete or not at all after any failure, and with bounded memory."""

import errno
import os
import resource
import stat
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from attention_bridge import checkpoints
from attention_bridge.checkpoints import Spec
from attention_bridge.errors import CheckpointError, DiskError
from parity_tests.helpers.checkpoint_samples import WRITTEN, bits, few, load, random_bits, save, specs_of

# Orbax's own threads, when they fail, call a closed event loop, perhaps during a later test.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Exception ignored in. None:pytest.PytestUnraisableExceptionWarning"
)

SHARDS = {"format": "safetensors", "max_shard_bytes": 90}
WAYS = {format: (name, {"format": format}) for format, name in WRITTEN.items()}
WAYS["shards"] = ("model.safetensors", SHARDS)
PIECEWISE = ["safetensors", "npz", "keras", "shards"]


@pytest.fixture(params=WAYS)
def place(request, tmp_path):
    """The target path in a directory of its own and the save options; a failed save must leave no other file there."""
    name, options = WAYS[request.param]
    (tmp_path / "own").mkdir()
    return tmp_path / "own" / name, options


def listing(directory):
    """Every file below a directory, with its bytes."""
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def older(place):
    """Save an older checkpoint, and return the files after it."""
    path, options = place
    save(path, {name: random_bits(a.shape, a.dtype, 9) for name, a in few().items()}, **options)
    return listing(path.parent)


def large():
    return few() | {"large": random_bits((2**19,), np.float32)}


class TestFailures:
    @pytest.mark.parametrize("before", [True, False], ids=["over an older one", "new"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, SystemExit])
    def test_interrupted_save_keeps_the_older_files(self, place, before, error):
        path, options = place
        there = older(place) if before else {}

        def items():
            yield from list(few().items())[:3]
            raise error

        with pytest.raises(error):
            checkpoints.save(path, items(), specs_of(few()), **options)
        assert listing(path.parent) == there

    @pytest.mark.parametrize("before", [True, False], ids=["over an older one", "new"])
    def test_full_disk_keeps_the_older_files(self, place, before):
        path, options = place
        there = older(place) if before else {}
        unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**18, unlimited[1]))  # maximum file size in bytes
        try:
            with pytest.raises(DiskError) as caught:
                save(path, large(), **options)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        assert str(caught.value).startswith(f"{path} cannot be written: ")
        assert "\n" not in str(caught.value)
        assert ".tmp" not in str(caught.value)
        assert str(caught.value).endswith("File too large") or options["format"] == "orbax"
        assert listing(path.parent) == there
        save(path, large(), **options)  # without the limit it succeeds
        assert bits(load(path.parent if "max_shard_bytes" in options else path)) == bits(large())

    @pytest.mark.parametrize("call", ["fsync", "rename", "replace"])
    def test_failed_system_call_keeps_the_older_files(self, place, call, monkeypatch):
        path, options = place
        there = older(place)
        count = 0

        def full(*arguments, **named):
            nonlocal count
            count += 1
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, call, full)
        try:
            save(path, few(), **options)
        except DiskError as error:
            message = str(error)
        else:
            message = ""
        monkeypatch.undo()
        if count == 0:  # a format that does not use this call
            assert call != "fsync"
            assert bits(load(path)) == bits(few())
            return
        assert message.startswith(str(path))
        assert message.endswith("cannot be written: No space left on device")
        assert listing(path.parent) == there

    def test_shard_that_cannot_be_renamed_keeps_the_older_files(self, tmp_path, monkeypatch):
        place = tmp_path / "model.safetensors", SHARDS
        there = older(place)
        rename, count = os.rename, 0

        def second_fails(*names):
            nonlocal count
            count += 1
            if count == 2:
                raise OSError(errno.ENOSPC, "No space left on device")
            rename(*names)

        monkeypatch.setattr(os, "rename", second_fails)
        with pytest.raises(DiskError, match=r"cannot be written: No space left on device$"):
            save(place[0], few(), **SHARDS)
        assert count == 2
        assert listing(tmp_path) == there

    def test_directory_that_cannot_be_renamed_keeps_the_older_one(self, tmp_path, monkeypatch):
        place = tmp_path / "x", {"format": "orbax"}
        there = older(place)
        rename = os.rename

        def not_to_it(source, target):
            if Path(target) == place[0] and ".x." in Path(source).name and Path(source) not in aside:
                raise OSError(errno.ENOSPC, "No space left on device")
            aside.append(Path(target))
            rename(source, target)

        aside: list[Path] = []
        monkeypatch.setattr(os, "rename", not_to_it)
        with pytest.raises(DiskError, match=r"x cannot be written: No space left on device$"):
            save(place[0], few(), format="orbax")
        assert place[0] in aside  # moved aside and back
        assert listing(tmp_path) == there

    def test_older_checkpoint_is_readable_until_the_new_one_is_complete(self, place):
        path, options = place
        older(place)
        read_from = path.parent if "max_shard_bytes" in options else path
        old = bits(load(read_from))

        def items():
            for item in few().items():
                assert bits(load(read_from)) == old
                yield item

        checkpoints.save(path, items(), specs_of(few()), **options)
        assert bits(load(read_from)) == bits(few())

    def test_checkpoint_is_saved_over_itself_while_it_is_read(self, place):
        path, options = place
        older(place)
        read_from = path.parent if "max_shard_bytes" in options else path
        old = load(read_from)
        with checkpoints.open(read_from) as reader:
            items = ((name, array[::-1] if array.ndim else array) for name, array in reader.items())
            checkpoints.save(path, items, reader.specs, **options)
        turned = {name: array[::-1] if array.ndim else array for name, array in old.items()}
        assert bits(load(read_from)) == bits(turned)

    def test_missing_directory(self, place):
        path, options = place
        with pytest.raises(CheckpointError) as caught:
            save(path.parent / "nowhere" / path.name, few(), **options)
        assert str(caught.value).endswith("nowhere is not a directory")

    @pytest.mark.skipif(not Path("/sys/kernel").is_dir(), reason="needs a directory without write permission")
    def test_unwritable_directory(self, place):
        path, options = place
        target = Path("/sys/kernel") / path.name
        with pytest.raises(DiskError) as caught:
            save(target, few(), **options)
        assert str(caught.value).startswith(f"{target} cannot be written: ")

    def test_name_taken_by_another_kind(self, place):
        path, options = place
        path.touch() if options["format"] == "orbax" else path.mkdir()
        with pytest.raises(CheckpointError, match=r"there is a (file|directory) of that name$"):
            save(path, few(), **options)
        assert len(list(path.parent.iterdir())) == 1


class TestWhatIsGiven:
    @pytest.mark.parametrize(
        ("items", "said"),
        [
            ([("a", np.ones(2)), ("c", np.ones(2))], "c is not in specs"),
            ([("a", np.ones(2)), ("a", np.ones(2))], "a was given twice"),
            ([("a", np.ones(2))], "items lacks b, which specs lists"),
            ([("a", np.ones(2)), ("b", np.ones(4))], r"b must be \(3,\) float64, but is \(4,\) float64"),
            ([("a", np.ones(2, "f4"))], r"a must be \(2,\) float64, but is \(2,\) float32"),
        ],
    )
    def test_items_that_differ_from_their_specs_raise(self, place, items, said):
        path, options = place
        specs = {"a": Spec((2,), np.dtype("f8")), "b": Spec((3,), np.dtype("f8"))}
        with pytest.raises(CheckpointError, match=f"cannot be written: {said}$") as caught:
            checkpoints.save(path, items, specs, **options)
        assert str(caught.value).startswith(str(path))
        assert listing(path.parent) == {}

    @pytest.mark.parametrize("dtype", ["U3", "M8[s]", "O", "f4,i4", "g"])
    def test_unsupported_dtypes_raise_before_any_item_is_requested(self, place, dtype):
        path, options = place

        def items():
            pytest.fail("no item is needed to see that")
            yield

        with pytest.raises(CheckpointError, match=r", as w is$"):
            checkpoints.save(path, items(), {"w": Spec((2,), np.dtype(dtype))}, **options)
        assert listing(path.parent) == {}

    @pytest.mark.parametrize("name", ["\udc80", "a\0b"])
    def test_names_that_are_no_text_raise(self, place, name):
        path, options = place
        with pytest.raises(CheckpointError, match="cannot be written: "):
            save(path, {name: np.ones(2)}, **options)
        assert listing(path.parent) == {}

    def test_reserved_and_conflicting_names_raise(self, tmp_path):
        for name, path in {
            "__metadata__": "x.safetensors",
            "__dtypes__": "x.npz",
            "a//b": "x.h5",
            "./b": "x.h5",
        }.items():
            with pytest.raises(CheckpointError, match="cannot be written: "):
                save(tmp_path / path, {name: np.ones(2)})
        for format, path in {"msgpack": "x.msgpack", "orbax": "x", "keras": "x.h5"}.items():
            mark = "/" if format == "keras" else "."
            for names in (["a", f"a{mark}b"], [f"a{mark}b", "a"]):
                with pytest.raises(CheckpointError, match="cannot be written: "):
                    save(tmp_path / path, dict.fromkeys(names, np.ones(2)), format=format)
        assert listing(tmp_path) == {}

    def test_metadata_raise_in_formats_without_metadata(self, place):
        path, options = place
        if options["format"] in ("safetensors", "npz"):
            save(path, few(), metadata={"a": "b"}, **options)
        else:
            with pytest.raises(CheckpointError, match=r"keeps no metadata, but got a$"):
                save(path, few(), metadata={"a": "b"}, **options)
            assert listing(path.parent) == {}

    def test_unknown_formats_and_unsupported_shards_raise(self, tmp_path):
        with pytest.raises(CheckpointError, match="a format is one of safetensors, torch, npz, "):
            save(tmp_path / "x.txt", few())
        with pytest.raises(CheckpointError, match="a format is one of safetensors, torch, npz, "):
            save(tmp_path / "x.npz", few(), format="numpy")
        with pytest.raises(CheckpointError, match=r"only safetensors has shards here, not npz$"):
            save(tmp_path / "x.npz", few(), max_shard_bytes=90)
        with pytest.raises(CheckpointError, match=r"max_shard_bytes is at least 1, but got 0$"):
            save(tmp_path / "x.safetensors", few(), max_shard_bytes=0)
        assert listing(tmp_path) == {}

    def test_orbax_has_no_arrays_without_elements(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"Orbax has no arrays without elements, as w is$"):
            save(tmp_path / "x", {"w": np.ones((0, 3))}, format="orbax")
        with pytest.raises(CheckpointError, match=r"Orbax has no checkpoints without tensors$"):
            save(tmp_path / "x", {}, format="orbax")


class TestStreaming:
    @pytest.mark.parametrize("way", PIECEWISE)
    def test_each_tensor_is_written_before_the_next_is_requested(self, tmp_path, way):
        name, options = WAYS[way]
        sizes = []

        def items():
            for name, array in tensors.items():
                yield name, array
                sizes.append(sum(path.stat().st_size for path in tmp_path.iterdir()))

        tensors = {f"t{i}": random_bits((2**16,), np.float32, i) for i in range(5)}
        checkpoints.save(tmp_path / name, items(), specs_of(tensors), **options)
        assert all(b - a > 2**17 for a, b in pairwise(sizes))

    @pytest.mark.skipif(os.name == "nt", reason="file modes are POSIX")
    def test_files_have_the_default_mode(self, place):
        path, options = place
        other = path.parent.parent / "other"
        other.touch()
        save(path, few(), **options)
        for below in path.parent.rglob("*"):
            if below.is_file() and options["format"] != "orbax":
                assert stat.S_IMODE(below.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)
