"""Shared helpers of the demonstrations: framework-independent random numbers and a printed table of weights."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from torch_attention.outputs import AttentionOutput, CachedOutput

Module = TypeVar("Module", bound=nn.Module)


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Sample standard normal numbers, the same in both frameworks."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


@torch.no_grad()
def fill(module: Module, seed: int = 0) -> Module:
    """Fill the parameters with random numbers, the same in both frameworks, and return the module in eval mode."""
    rng = np.random.default_rng(seed)
    for _, parameter in sorted(module.named_parameters()):
        parameter.copy_(torch.from_numpy((0.5 * rng.standard_normal(parameter.shape)).astype(np.float32)))
    return module.eval()


def show(
    title: str, attention: AttentionOutput | CachedOutput, queries: Sequence[str], keys: Sequence[str]
) -> None:
    """Print the attention weights of the first batch element, as one labelled table per head."""
    output, weights = attention.output, attention.weights
    assert weights is not None
    print(f"\n{title}: output {tuple(output.shape)}, weights {tuple(weights.shape)}")
    heads = weights[0].reshape(-1, len(queries), len(keys))  # heads query key
    for number, head in enumerate(heads.tolist()):
        label = f"head {number}" if len(heads) > 1 else ""
        print(f"{label:>10}" + "".join(f"{key:>8}" for key in keys))
        for name, row in zip(queries, head, strict=True):
            print(f"{name:>10}" + "".join(f"{weight:8.3f}" for weight in row))
    print("first output:", " ".join(f"{number:.3f}" for number in output[0, 0].tolist()))
