"""Choice of the checkpoint in a directory, and the reason where there is none."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path

from attention_bridge.checkpoints.faults import contents
from attention_bridge.checkpoints.wrong_files import is_unfinished
from attention_bridge.errors import CheckpointError

# Of a directory, the first of these files that exists is opened.
USUAL = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "flax_model.msgpack",
    "flax_model.msgpack.index.json",
    "consolidated.00.pth",
)
# Files with the suffix of a checkpoint that hold no model, or one of a framework that is not read.
OTHER_THINGS = (
    "training_args.bin",
    "optimizer*.*",
    "scheduler*.*",
    "scaler.pt",
    "rng_state*.pth",
    "tf_model*.h5",
    "openvino*.bin",
)
OTHER_FRAMEWORKS = {
    "tf_model*.h5": "TensorFlow",
    "*.ckpt.index": "TensorFlow",
    "*.ckpt-*.index": "TensorFlow",
    "*.ckpt.data-*": "TensorFlow",
    "saved_model.pb": "TensorFlow",
    "*.tflite": "TensorFlow Lite",
    "*.onnx": "ONNX",
    "openvino*.xml": "OpenVINO",
    "rust_model.ot": "Rust",
    "*.mlpackage": "Core ML",
    "*.mlmodel": "Core ML",
    "*.engine": "TensorRT",
}
SHARD = re.compile(r"(?P<name>.+?)[-_]\d{5}-of-\d{5}(?P<suffix>\.\w+)")
DOWNLOADS = ".cache/huggingface/download"  # unfinished files of `hf download --local-dir`
SNAPSHOTS = "snapshots"  # of the Hugging Face Hub's cache: one directory for each commit
ARCHIVES = (".zip", ".tar", ".tgz", ".gz", ".xz", ".bz2", ".zst", ".7z", ".rar")
MOST_NAMES = 3


def usual(directory: Path) -> Path | None:
    """The first of the usual files that a directory has, or None.

    Raises:
        CheckpointError: it is a link to a file that does not exist.
    """
    for name in USUAL:
        if (directory / name).exists():
            return directory / name
        if (directory / name).is_symlink():
            raise CheckpointError(f"{directory / name} is a link to a file that does not exist")
    return None


def only(directory: Path, known: list[Path]) -> Path:
    """The single checkpoint of a directory that has none of the usual files.

    Args:
        directory: the directory.
        known: its files that have the name of a checkpoint.

    Raises:
        CheckpointError: there is none, or more than one; the message names the files that it has, and the remedy.
    """
    found = [path for path in known if not any(fnmatch(path.name, pattern) for pattern in OTHER_THINGS)]
    names = sorted(path.name for path in directory.iterdir())
    if reason := _unfinished(directory) or _shards(found, names):
        raise CheckpointError(f"{directory} {reason}")
    if len(found) == 1:
        return found[0]
    if not found and (
        reason := _elsewhere(directory) or _packed(names) or _other_framework(names) or _no_weights(names)
    ):
        raise CheckpointError(f"{directory} {reason}")
    if len(found) > 1:
        some = ", ".join(path.name for path in found[:MOST_NAMES])
        raise CheckpointError(
            f"{directory} has {len(found)} checkpoints: give one of them, such as {some}; "
            f"it holds {contents(directory)}"
        )
    raise CheckpointError(
        f"{directory} has none of {', '.join(USUAL)}, no Orbax checkpoint and not exactly one file of a known kind; "
        f"it holds {contents(directory)}"
    )


def _unfinished(directory: Path) -> str | None:
    """The sentence for a directory that was not downloaded to its end."""
    named = [path for path in directory.iterdir() if path.is_file() and is_unfinished(path)]
    if files := named or list((directory / DOWNLOADS).rglob("*.incomplete")):
        return f"holds an unfinished download, {files[0].relative_to(directory)}: download it again"
    return None


def _shards(found: list[Path], names: list[str]) -> str | None:
    """The sentence for shards without their index."""
    for path in found:
        if (shard := SHARD.fullmatch(path.name)) and path.suffix in (".safetensors", ".bin", ".msgpack"):
            index = f"{shard['name']}{shard['suffix']}.index.json"
            if index not in names:
                return (
                    f"has {path.name}, but not its index {index}, without which it is incomplete: download it"
                )
    return None


def _elsewhere(directory: Path) -> str | None:
    """The sentence for a directory whose checkpoints are in directories below it."""
    parent = directory / SNAPSHOTS if (directory / SNAPSHOTS).is_dir() else directory
    below = sorted(path for path in parent.iterdir() if path.is_dir())
    holding = [path for path in below if any((path / name).exists() for name in USUAL)]
    if not holding:
        return None
    names = ", ".join(str(path.relative_to(directory)) for path in holding[:MOST_NAMES])
    return f"has no weights itself, but directories below it have: give one of them, such as {names}"


def _packed(names: list[str]) -> str | None:
    """The sentence for an archive."""
    found = [name for name in names if name.endswith(ARCHIVES)]
    return f"has no weights but an archive, {found[0]}: unpack it" if found else None


def _other_framework(names: list[str]) -> str | None:
    """The sentence for weights of a framework that is not read."""
    for name in names:
        for pattern, framework in OTHER_FRAMEWORKS.items():
            if fnmatch(name, pattern):
                return (
                    f"has no weights but {name} ({framework}), which is not read: download or export "
                    "model.safetensors or pytorch_model.bin"
                )
    return None


def _no_weights(names: list[str]) -> str | None:
    """The sentence for a configuration or a tokenizer without weights."""
    files = [
        name for name in names if name.endswith((".json", ".model")) or name in ("vocab.txt", "merges.txt")
    ]
    if not files:
        return None
    shown = ", ".join(names[:MOST_NAMES]) + (
        f" and {len(names) - MOST_NAMES} more" if names[MOST_NAMES:] else ""
    )
    return (
        f"has no weights: expected model.safetensors, pytorch_model.bin, or one of them in shards with its index; "
        f"it holds {shown}"
    )
