"""What the proofs of traps share."""

import numpy as np
import torch

import torch_attention
from attention_bridge.weights import transfer
from parity_tests.helpers.rosetta.calls import BATCH, EMBED, HEAD_DIM, HEADS

Rng = np.random.Generator
TOLERANCE = 1e-4  # far above rounding in float32, far below what the mistakes do


def differs(found: object, expected: object) -> bool:
    """Whether two arrays of about 1 are not the same but for rounding."""
    a, b = (x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x) for x in (found, expected))
    assert a.shape == b.shape
    return not np.abs(a - b).max() <= TOLERANCE


def heads_of(rng: Rng, *lengths: int) -> list[torch.Tensor]:
    return [torch.from_numpy(rng.standard_normal((BATCH, HEADS, n, HEAD_DIM))).float() for n in lengths]


def sequences(rng: Rng, *lengths: int) -> list[torch.Tensor]:
    return [torch.from_numpy(rng.standard_normal((BATCH, n, EMBED))).float() for n in lengths]


def torch_layer(**options: object) -> torch.nn.MultiheadAttention:
    torch.manual_seed(0)
    return torch.nn.MultiheadAttention(EMBED, HEADS, **{"batch_first": True, **options}).eval()


def our_layer(theirs: torch.nn.Module) -> torch.nn.Module:
    return transfer(theirs, torch_attention.MultiHeadCrossAttention(EMBED, EMBED, EMBED, HEADS))


def seeing(rng: Rng, *shape: int) -> np.ndarray:
    mask = rng.random(shape) < 0.6
    mask[..., 0] = True
    return mask
