"""Load a tiny model of every class of transformers and save it again: the files must be the same byte for byte."""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers

from attention_bridge.pretrained import load_pretrained, save_pretrained
from parity_tests.helpers import heads

DTYPES = (torch.float32, torch.bfloat16)


def changed_files(name: str, dtype: torch.dtype, frameworks: tuple[str, ...]) -> Iterator[str]:
    """The files of a class that are not the same after they were loaded and saved, with the framework."""
    with tempfile.TemporaryDirectory() as place:
        given, back = Path(place, "given"), Path(place, "back")
        heads.model(name).to(dtype).save_pretrained(given)
        before = heads.hashes(given)
        for framework in frameworks:
            save_pretrained(load_pretrained(given, framework), back / framework)
            after = heads.hashes(back / framework)
            for file in sorted(before.keys() | after.keys()):
                if before.get(file) != after.get(file):
                    yield f"{framework} {file}"


def main() -> int:
    """Try every class in either dtype and framework."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)  # tiny models; several runs share the cores
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    faults = 0
    for name in heads.WRITTEN:
        for dtype in DTYPES:
            for fault in changed_files(name, dtype, ("torch", "jax")):
                print(f"{name}, {dtype}: {fault} is not the same", flush=True)
                faults += 1
    print(f"{len(heads.WRITTEN)} classes in {len(DTYPES)} dtypes and both frameworks: {faults} files differ.")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
