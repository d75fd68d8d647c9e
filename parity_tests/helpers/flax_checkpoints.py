"""Checkpoints as the Flax classes of transformers 4 wrote them, from models of PyTorch.

The kind of each module decides the name of its weight: `kernel` with the axes reversed for linear maps and
convolutions, `embedding`, or `scale` for layer norms; RMS norms kept the name `weight`. GPT-2's Flax class stored its
kernels as (out, in), the transpose of its PyTorch class.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from flax import serialization
from flax.traverse_util import unflatten_dict
from transformers.pytorch_utils import Conv1D

Tensors = dict[tuple[str, ...], np.ndarray]


def flax_tensors(model: torch.nn.Module) -> Tensors:
    """The parameters of a model by their path in a Flax checkpoint; tied ones once, under the first name."""
    found: Tensors = {}
    for path, module in model.named_modules():
        biases = [each for each in module.named_buffers(recurse=False) if each[0] == "final_logits_bias"]
        for name, x in (*module.named_parameters(recurse=False), *biases):
            leaf, array = _stored(module, name, x.detach().numpy())
            found[(*path.split("."), leaf) if path else (leaf,)] = array
    kept = {name.rpartition(".")[0] for name, _ in model.named_parameters()}  # the first of tied ones
    return {path: x for path, x in found.items() if ".".join(path[:-1]) in kept or len(path) == 1}


def _stored(module: torch.nn.Module, name: str, x: np.ndarray) -> tuple[str, np.ndarray]:
    if name != "weight":
        return name, x
    if isinstance(module, torch.nn.Linear | Conv1D):
        return "kernel", np.swapaxes(x, 0, 1)
    if isinstance(module, torch.nn.Conv1d):
        return "kernel", np.einsum("oiw->wio", x)
    if isinstance(module, torch.nn.Conv2d):
        return "kernel", np.einsum("oihw->hwio", x)
    if isinstance(module, torch.nn.Embedding):
        return "embedding", x
    return ("scale" if isinstance(module, torch.nn.LayerNorm) else "weight"), x


def write(directory: Path, model: Any, *, shards: int = 1, dtype: Any = None) -> None:
    """Write the configuration and the Flax checkpoint of a model.

    Args:
        directory: where the files are written.
        model: model of transformers.
        shards: number of files; with more than one there is an index.
        dtype: dtype of the tensors; None for the model's.
    """
    directory.mkdir(parents=True, exist_ok=True)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)
    tensors = flax_tensors(model)
    if dtype is not None:
        tensors = {path: x.astype(dtype) for path, x in tensors.items()}
    if shards == 1:
        _write(directory / "flax_model.msgpack", tensors)
        return
    places = {}
    for n in range(shards):
        name = f"flax_model-{n + 1:05}-of-{shards:05}.msgpack"
        part = {path: x for index, (path, x) in enumerate(tensors.items()) if index % shards == n}
        _write(directory / name, part)
        places |= dict.fromkeys(("/".join(path) for path in part), name)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (directory / "flax_model.msgpack.index.json").write_text(json.dumps(index))


def _write(path: Path, tensors: Tensors) -> None:
    path.write_bytes(
        serialization.to_bytes(unflatten_dict({each: np.array(x, order="C") for each, x in tensors.items()}))
    )
