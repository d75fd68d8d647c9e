"""Listing of the datasets in an HDF5 file. As a script, it checks a file's names and attributes in a separate process.

It imports only h5py, so that the script runs with `python -I`, without the project on the path.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

MOST_ENTRIES = 10**6
MOST_LEVELS = 100


def datasets(group: Any) -> Iterator[tuple[str, Any]]:
    """Yield the name and object of every dataset in a file. A dataset with two names is yielded twice.

    Raises:
        ValueError: there is a soft or external link, a name that is not text, an entry that is neither a group nor a
            dataset, or there are too many entries.
    """
    for count, (name, node) in enumerate(_walk(group, "", 0)):
        if count >= MOST_ENTRIES:
            raise ValueError(f"it nests more than {MOST_ENTRIES} entries")
        if hasattr(node, "shape"):
            yield name, node


def said(dataset: Any) -> Any:
    """The attribute `dtype` of a dataset of raw bytes, for dtypes that HDF5 lacks; else None."""
    return dataset.attrs.get("dtype") if dataset.dtype.kind == "V" else None


def description(file: Any) -> str | None:
    """The model configuration in JSON, if the file is a whole model in Keras' legacy HDF5 format; else None.

    Raises:
        ValueError: the configuration is not text.
    """
    text = file.attrs.get("model_config")
    if isinstance(text, bytes):
        text = text.decode()
    if text is not None and not isinstance(text, str):
        raise ValueError("its attribute model_config is no text")
    return text


def _walk(group: Any, above: str, level: int) -> Iterator[tuple[str, Any]]:
    import h5py

    if level > MOST_LEVELS:
        raise ValueError(f"it nests more than {MOST_LEVELS} levels")
    for key in group:
        if isinstance(key, bytes):
            raise ValueError(f"a name in it is no text, {key!r}")
        name = f"{above}{key}"
        if not isinstance(group.get(key, getlink=True), h5py.HardLink):
            raise ValueError(f"{name} is a soft or external link, and files with such links are not read")
        node = group[key]
        if not isinstance(node, h5py.Group | h5py.Dataset):
            raise ValueError(f"{name} is neither a group nor an array but a {type(node).__name__}")
        yield name, node
        if isinstance(node, h5py.Group):
            yield from _walk(node, f"{name}/", level + 1)


def main(path: str, directories: list[str]) -> None:
    """Read everything in a file except the values.

    Args:
        path: the file.
        directories: directories of h5py and numpy, added to `sys.path`.
    """
    sys.path += directories
    import h5py

    try:
        with h5py.File(path, "r") as file:
            description(file)
            for _, dataset in datasets(file):
                said(dataset)
    except Exception as error:
        sys.stdout.buffer.write(" ".join(str(error).split()).encode(errors="backslashreplace"))
        sys.exit(3)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
