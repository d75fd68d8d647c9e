r"""Random features, whose inner products are on average the exponentials of softmax (Choromanski et al. 2020).

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
    """Make normal vectors orthogonal to each other, d at a time, each as long as it was (section 3).

    Each is then still normal, for the directions of normal vectors are independent of their lengths.

    Args:
        normal: standard normal numbers.
    """
    wide, head_dim = at_least_float32(normal), normal.shape[1]
    blocks = []
    for start in range(0, normal.shape[0], head_dim):
        block = wide[start : start + head_dim]  # at most head_dim rows
        directions, triangle = torch.linalg.qr(block.mT)  # head_dim rows, rows rows
        signs = torch.where(einsum("ii->i", triangle) < 0, -1.0, 1.0)[None]  # as by Gram & Schmidt
        blocks.append((directions * signs).mT * torch.sqrt((block * block).sum(-1))[:, None])
    return torch.concatenate(blocks, dim=0).to(normal.dtype)


@checked
def log_softmax_features(
    x: Float[Tensor, "batch heads length head_dim"], features: Float[Tensor, "features head_dim"]
) -> Float[Tensor, "batch heads length features"]:
    """Log φ(x) but for the constant factor 1/√m, which cancels: ωᵀx̂ - |x̂|²/2, in at least float32."""
    x = at_least_float32(x) * x.shape[-1] ** -0.25  # batch heads length head_dim
    along = einsum("bhld,fd->bhlf", x, features.to(x.dtype))
    return along - (x * x).sum(-1)[..., None] / 2


@checked
def query_features(query: Float[Tensor, "... features"]) -> Float[Tensor, "... features"]:
    """Φ(q) over its largest feature, from log φ(q)."""
    query = at_least_float32(query)
    return torch.exp(query - torch.amax(query, dim=-1, keepdim=True))


@checked
def divide(
    x: Float[Tensor, "... length dim"], total: Float[Tensor, "... length"]
) -> Float[Tensor, "... length dim"]:
    """X / total, and zero where the total is."""
    some = (total > 0)[..., None]
    return torch.where(some, x, 0.0) / torch.where(some, total[..., None], 1.0)


def empty_exponent() -> float:
    """The exponent of a state that has read nothing: below that of any key."""
    return -1e30  # no global number: of that a compiler would make a symbol, which no scan takes


def over_largest(
    key: Float[Tensor, "batch heads size features"], before: Float[Tensor, "batch heads"] | None
) -> tuple[Float[Tensor, "batch heads size features"], Float[Tensor, "batch heads"]]:
    """Φ(k) over the largest feature of these keys and those before, and the logarithm of that, from log φ(k)."""
    seen = key != -torch.inf
    key = torch.where(seen, key, empty_exponent())
    exponent = (
        key.sum(dim=(-2, -1)) + empty_exponent() if key.shape[-2] == 0 else torch.amax(key, dim=(-2, -1))
    )
    exponent = exponent if before is None else torch.maximum(before, exponent)
    return torch.where(seen, torch.exp(key - exponent[..., None, None]), 0.0), exponent
