"""Quantised checkpoints of a family: the outputs of transformers with the dequantised values."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from attention_bridge.errors import REFUSALS
from attention_bridge.pretrained import load_pretrained
from parity_tests.helpers.families import CASES
from parity_tests.helpers.family_proof import ARRAYS, Proof, float64
from parity_tests.helpers.text_proof import proof

BLOCK = 4  # rows and columns that share a scale in FP8
Quantised = tuple[dict[str, torch.Tensor], torch.Tensor]


def fp8(name: str, weight: torch.Tensor) -> Quantised:
    """The tensors of a weight in 8-bit floats with a scale per block, and its values."""
    stored = (weight.float() * 40).to(torch.float8_e4m3fn)
    rows, columns = (-(-size // BLOCK) for size in weight.shape)
    scales = 0.02 + 0.01 * torch.arange(rows * columns, dtype=torch.float32).reshape(rows, columns)
    wide = scales.repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    values = stored.float() * wide[: weight.shape[0], : weight.shape[1]]
    return {name: stored, f"{name}_scale_inv": scales}, values


def int8(name: str, weight: torch.Tensor) -> Quantised:
    """The tensors of a weight in 8-bit integers with a scale per row, and its values."""
    scales = weight.float().abs().amax(1)
    stored = (weight.float() * 127 / scales[:, None]).round().to(torch.int8)
    tensors = {name: stored, f"{name.removesuffix('weight')}SCB": scales}
    return tensors, stored.float() * scales[:, None] / 127


METHODS: dict[str, tuple[Callable[[str, torch.Tensor], Quantised], dict[str, Any]]] = {
    "FP8": (fp8, {"quant_method": "fp8", "weight_block_size": [BLOCK, BLOCK], "fmt": "e4m3"}),
    "int8": (int8, {"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}),
}


def quantised(case: str) -> tuple[list[str], list[str]]:
    """The methods with which a case's checkpoint gives the right outputs, and the faults of the others."""
    right, faults = [], []
    for method in METHODS:
        with tempfile.TemporaryDirectory() as place:
            made = proof(CASES[case], Path(place))
            if not change(made, Path(place), method):
                continue
            with torch.no_grad():
                expected = float64(made.theirs(made.built))
            try:
                found = float64(made.ours(load_pretrained(Path(place), "torch"), ARRAYS["torch"]))
            except REFUSALS as error:
                faults.append(f"{method}: {error}")
                continue
            worst = max(made.excess(name, found[name], x) for name, x in expected.items())
            if worst <= 1.0:
                right.append(method)
            else:
                faults.append(f"{method}: {worst:.3g} times the bound")
    return right, faults


def change(made: Proof, place: Path, method: str) -> bool:
    """Quantise the linear layers of a checkpoint, and give the model of transformers the dequantised values."""
    quantise, config = METHODS[method]
    path = place / "model.safetensors"
    tensors = load_file(path)
    names = {x.float().numpy().tobytes(): name for name, x in tensors.items()}
    head = made.built.get_output_embeddings()
    changed = False
    for module in made.built.modules():
        name = (
            names.get(module.weight.detach().float().numpy().tobytes())
            if type(module) is torch.nn.Linear
            else None
        )
        if name is not None and module is not head:
            stored, values = quantise(name, tensors.pop(name))
            tensors |= stored
            with torch.no_grad():
                module.weight.copy_(values)
            changed = True
    save_file(tensors, path, {"format": "pt"})
    written = place / "config.json"
    fields = json.loads(written.read_text())
    written.write_text(json.dumps({**fields, "quantization_config": config}))
    return changed
