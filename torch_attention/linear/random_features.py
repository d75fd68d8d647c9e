r"""Random features whose inner products approximate the softmax kernel (Choromanski et al. 2020).

$$ \phi(x) = \frac{1}{\sqrt{m}} \exp\!\left(\omega^\top \hat{x} - \tfrac12 |\hat{x}|^2\right), \quad
   \hat{x} = x / d^{1/4}, \qquad \mathrm{E}\left[\phi(q) \cdot \phi(k)\right] = \exp(q \cdot k / \sqrt{d}) $$

| symbol | argument   | shape                  |
|--------|------------|------------------------|
| ω      | `features` | `(features, head_dim)` |
"""

import torch
from jaxtyping import Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import einsum
from torch_attention.ops import at_least_float32


@checked
def orthogonal_features(
    normal: Float[Tensor, "features head_dim"],
) -> Float[Tensor, "features head_dim"]:
    """Orthogonalise normal vectors in groups of `head_dim`, keeping their lengths (section 3).

    Each vector remains normally distributed, because the direction of a normal vector is independent of its length.

    Args:
        normal: standard normal samples, `(features, head_dim)`.

    Returns:
        Vectors `(features, head_dim)`, orthogonal within each group of `head_dim` rows.
    """
    wide, head_dim = at_least_float32(normal), normal.shape[1]
    blocks = []
    for start in range(0, normal.shape[0], head_dim):
        block = wide[start : start + head_dim]  # at most head_dim rows
        directions, triangle = torch.linalg.qr(block.mT)  # head_dim rows, rows rows
        signs = torch.where(einsum("ii->i", triangle) < 0, -1.0, 1.0)[None]  # Gram-Schmidt signs
        blocks.append((directions * signs).mT * torch.sqrt((block * block).sum(-1))[:, None])
    return torch.concatenate(blocks, dim=0).to(normal.dtype)


@checked
def log_softmax_features(
    x: Float[Tensor, "batch heads length head_dim"], features: Float[Tensor, "features head_dim"]
) -> Float[Tensor, "batch heads length features"]:
    """Compute log-features log φ(x) without the constant factor 1/√m, which cancels: ωᵀx̂ - |x̂|²/2.

    The result is in at least float32.
    """
    x = at_least_float32(x) * x.shape[-1] ** -0.25  # batch heads length head_dim
    along = einsum("bhld,fd->bhlf", x, features.to(x.dtype))
    return along - (x * x).sum(-1)[..., None] / 2


@checked
def query_features(query: Float[Tensor, "... features"]) -> Float[Tensor, "... features"]:
    """Compute φ(q) divided by its largest feature, from log φ(q)."""
    query = at_least_float32(query)
    return torch.exp(query - torch.amax(query, dim=-1, keepdim=True))


@checked
def divide(
    x: Float[Tensor, "... length dim"], total: Float[Tensor, "... length"]
) -> Float[Tensor, "... length dim"]:
    """Compute x / total, and zero where the total is zero."""
    some = (total > 0)[..., None]
    return torch.where(some, x, 0.0) / torch.where(some, total[..., None], 1.0)


def empty_exponent() -> float:
    """Exponent of an empty state, below the exponent of any key."""
    return -1e30  # not a global: the compiler would make it a symbol, which a scan does not accept


def over_largest(
    key: Float[Tensor, "batch heads size features"], before: Float[Tensor, "batch heads"] | None
) -> tuple[Float[Tensor, "batch heads size features"], Float[Tensor, "batch heads"]]:
    """Divide φ(k) by the largest key feature so far, from log φ(k); also return the logarithm of this divisor."""
    seen = key != -torch.inf
    key = torch.where(seen, key, empty_exponent())
    exponent = (
        key.sum(dim=(-2, -1)) + empty_exponent() if key.shape[-2] == 0 else torch.amax(key, dim=(-2, -1))
    )
    exponent = exponent if before is None else torch.maximum(before, exponent)
    return torch.where(seen, torch.exp(key - exponent[..., None, None]), 0.0), exponent
