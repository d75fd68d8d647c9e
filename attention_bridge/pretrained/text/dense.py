"""Dense modules of sentence-transformers, which project sentence embeddings."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.config_files import read_json
from attention_bridge.pretrained.text.tokenizer_files import optional

ACTIVATIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "GELU": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
    "Identity": lambda x: x,
    "ReLU": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "SiLU": lambda x: x / (1 + np.exp(-x)),
    "Tanh": np.tanh,
}


def read_dense(folder: Path) -> Callable[[np.ndarray], np.ndarray]:
    """Read a Dense module: a linear layer with an activation, perhaps with a residual connection.

    Raises:
        CheckpointError: a file is damaged, or an option is not supported.
    """
    fields = read_json(folder / "config.json")
    check_names(folder)
    given = str(fields.get("activation_function", "torch.nn.Tanh"))
    name = given.rpartition(".")[2]
    if name not in ACTIVATIONS or not given.startswith("torch."):
        raise CheckpointError(
            f"{folder} has the activation {given}, and embed supports only {', '.join(ACTIVATIONS)} of torch.nn"
        )
    tensors = {key: x.astype(np.float32) for key, x in checkpoints.read(folder).items()}
    if "linear.weight" not in tensors:
        raise CheckpointError(
            f"{folder} must hold the tensor linear.weight, got {', '.join(tensors) or 'none'}"
        )
    return partial(_project, tensors, ACTIVATIONS[name], bool(fields.get("use_residual", False)), folder)


def _project(
    tensors: Mapping[str, np.ndarray],
    activation: Callable[[np.ndarray], np.ndarray],
    residual: bool,
    folder: Path,
    x: np.ndarray,
) -> np.ndarray:
    weight = tensors["linear.weight"]
    if weight.ndim != 2 or weight.shape[1] != x.shape[1]:
        raise CheckpointError(
            f"{folder} must project {x.shape[1]} features, but its weight is {weight.shape}"
        )
    found = activation(x @ weight.T + tensors.get("linear.bias", 0.0))
    if not residual:
        return found
    return found + (x @ tensors["residual.weight"].T if "residual.weight" in tensors else x)


def check_names(folder: Path) -> None:
    """Raise `CheckpointError` unless a module reads and writes the embedding of the text."""
    for name in ("module_input_name", "module_output_name"):
        given = optional(folder / "config.json").get(name)
        if given not in (None, "sentence_embedding"):
            raise CheckpointError(f"{folder} must have {name} sentence_embedding, got {given!r}")
