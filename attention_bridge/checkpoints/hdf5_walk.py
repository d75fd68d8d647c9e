"""The datasets of an HDF5 file. Run as a script, this file reads all their names in a process of its own.

The script imports h5py and nothing else, so that it runs with `python -I`, without the project on the path.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

MOST_ENTRIES = 10**6
MOST_LEVELS = 100


def datasets(group: Any) -> Iterator[tuple[str, Any]]:
    """Every name in a file that leads to a dataset, and the dataset. One with two names comes twice.

    Raises:
        ValueError: a link leads elsewhere by a path (soft or external), a name is not text, something is no array, or
            the file is endless.
    """
    for count, (name, node) in enumerate(_walk(group, "", 0)):
        if count >= MOST_ENTRIES:
            raise ValueError(f"it nests more than {MOST_ENTRIES} entries")
        if hasattr(node, "shape"):
            yield name, node


def said(dataset: Any) -> Any:
    """The dtype that an attribute names, of what HDF5 has no dtype for."""
    return dataset.attrs.get("dtype") if dataset.dtype.kind == "V" else None


def description(file: Any) -> str | None:
    """What a file says of the model, in JSON, if it is a whole model in the format before `.keras`.

    Raises:
        ValueError: what stands there is no text.
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
            raise ValueError(
                f"{name} is a link to another place, and only files without soft and external links are read"
            )
        node = group[key]
        if not isinstance(node, h5py.Group | h5py.Dataset):
            raise ValueError(f"{name} is neither a group nor an array but a {type(node).__name__}")
        yield name, node
        if isinstance(node, h5py.Group):
            yield from _walk(node, f"{name}/", level + 1)


def main(path: str, directories: list[str]) -> None:
    """Read all of a file but values.

    Args:
        path: the file.
        directories: where h5py and numpy are, if the interpreter does not find them by itself.
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
