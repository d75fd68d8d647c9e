"""Finding of a checkpoint: a file or directory on this machine, or a download from the Hugging Face Hub."""

from __future__ import annotations

import os
from pathlib import Path

from attention_bridge.checkpoints.format_detection import named
from attention_bridge.errors import CheckpointError, InputError, require
from attention_bridge.pretrained.hub.errors import explained
from attention_bridge.pretrained.hub.names import EXPECTED, Remote, looks_local, remote_of

# Files beside the weights, and the modules of sentence-transformers; nothing else is downloaded.
DESCRIPTIONS = (
    "config.json",
    "params.json",
    "generation_config.json",
    "adapter_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_*_config.json",
    "[0-9]_*/*",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "source.spm",
    "target.spm",
)
# Weights, in the order in which they are looked for; the first kind that the repository has is downloaded.
WEIGHTS = (
    ("model*.safetensors", "model*.safetensors.index.json"),
    ("pytorch_model*.bin", "pytorch_model*.bin.index.json"),
    ("adapter_model.safetensors", "adapter_model.bin"),
    ("flax_model*.msgpack", "flax_model*.msgpack.index.json"),
)


def local_directory(source: str | os.PathLike[str], revision: str | None = None) -> Path:
    """The path of a checkpoint on this machine; one from the Hugging Face Hub is downloaded to its cache.

    Of a repository its configuration, its tokenizer and one kind of weights are downloaded: safetensors, else `.bin`,
    else Flax's `.msgpack`.
    A file of another kind, such as GGUF, is downloaded only if it is named: "owner/name/file.gguf".

    Args:
        source: a file, a directory, or a model on the Hugging Face Hub: "name", "owner/name", "owner/name@revision",
            "owner/name/file", or the address of its page.
        revision: branch, tag or commit on the Hugging Face Hub; None for the default branch.

    Returns:
        The directory, or the file if `source` names one. One that looks like a local path is returned as it is, even
        if it does not exist.

    Raises:
        CheckpointError: the Hugging Face Hub does not provide it; the message gives the reason and the remedy.
        DiskError: the download cannot be written.
        InputError: `source` names nothing, or two revisions are given.
    """
    if (
        not isinstance(source, str | os.PathLike)
        or not (text := os.fspath(source))
        or not isinstance(text, str)
    ):
        raise InputError(f"source must name something, got {source!r}: {EXPECTED}")
    path = Path(text).expanduser()
    if path.exists() or looks_local(text):
        if revision is not None and path.exists():
            raise InputError(
                f"revision must be None for a local file or directory, got {revision!r} for {path}"
            )
        return path
    remote = remote_of(text, revision)
    require(("huggingface_hub",), extra="hub")
    return _download(text, remote)


def _download(text: str, remote: Remote) -> Path:
    """Download a model's description and weights to the cache, or find them there."""
    kinds = ((remote.file, f"{Path(remote.file).name}*.index.json"),) if remote.file else WEIGHTS
    with explained(text, remote.name, remote.revision):
        for weights in kinds:
            directory = _snapshot(remote, weights)
            if _holds(directory, weights):
                return directory / remote.file if remote.file else directory
    if any((directory.parent.parent / "blobs").glob("*.incomplete")):
        raise CheckpointError(
            f"{remote.name} in the cache {directory} is an unfinished download: run `hf download {remote.name}`"
        )
    if remote.file:
        raise CheckpointError(f"{remote.name} on the Hugging Face Hub has no file {remote.file}")
    if any(named(entry) for entry in directory.iterdir()):  # of a cache that was filled with other files
        return directory
    raise CheckpointError(
        f"{remote.name} on the Hugging Face Hub has neither model*.safetensors nor pytorch_model*.bin: "
        f"name one of its files, as in '{remote.name}/model.gguf', or give another model"
    )


def _snapshot(remote: Remote, weights: tuple[str, ...]) -> Path:
    """The directory in the cache with a model's description and weights of one kind.

    Without a network a part of the model is enough if it has weights: its tokenizer may be absent.
    """
    from huggingface_hub import errors, snapshot_download

    patterns = [*DESCRIPTIONS, *weights]
    try:
        return Path(snapshot_download(remote.name, revision=remote.revision, allow_patterns=patterns))
    except getattr(errors, "IncompleteSnapshotError", ()) as error:
        directory = Path(error.snapshot_path)
        kinds = (weights,) if remote.file else WEIGHTS
        if any(_holds(directory, kind) for kind in kinds):
            return directory
        raise


def _holds(directory: Path, patterns: tuple[str, ...]) -> bool:
    """Whether a directory has a file of one of these patterns."""
    return any(next(directory.glob(pattern), None) for pattern in patterns)
