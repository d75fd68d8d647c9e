"""Images and grids of features: `(batch, height, width, channels)`, as they come in and go out.

No kind of attention over a grid takes a padding mask: a grid has no padding.
"""

from typing import NamedTuple

from einops import rearrange
from jax import Array
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.checks import check_floating


class GridOutput(NamedTuple):
    """`output, weights = attention(grid)`.

    Attributes:
        output: `(batch, height, width, embed)`.
        weights: of a shape that each class states, the last two axes being query and key; before dropout, in at
            least float32. None with `need_weights=False`.
    """

    output: Float[Array, "batch height width embed"]
    weights: Float[Array, "batch ..."] | None


def check_grid(name: str, x: Array, dim: int) -> None:
    """Raise unless `x` is floating-point and `(batch, height, width, dim)`."""
    check_floating(name, x)
    if x.ndim != 4 or x.shape[-1] != dim:
        raise ValueError(f"{name} must have shape (batch, height, width, {dim}), got {tuple(x.shape)}")


@checked
def flatten_grid(x: Float[Array, "batch height width embed"]) -> Float[Array, "batch area embed"]:
    """Lay the rows one after the other: the place (y, x) becomes position `y * width + x`."""
    return rearrange(x, "batch height width embed -> batch (height width) embed")


@checked
def unflatten_grid(
    x: Float[Array, "batch area embed"], height: int, width: int
) -> Float[Array, "batch height width embed"]:
    """Cut a sequence into rows again: the inverse of `flatten_grid`."""
    return rearrange(x, "batch (height width) embed -> batch height width embed", height=height, width=width)
