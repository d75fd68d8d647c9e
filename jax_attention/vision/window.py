r"""Window attention and shifted-window attention over images (Swin Transformer, Liu et al. 2021).

$$ \mathrm{softmax}\!\left(Q K^\top / \sqrt{d} + B\right) V \quad \text{in each window}, \qquad
   B_{ij} = \hat{B}[y_i - y_j,\; x_i - x_j] $$

One change from `MultiHeadSelfAttention` over all positions of a grid: each position attends only to the w by w
positions of its window, so the cost is linear in the area. `ShiftedWindowAttention` rolls the grid by `shift` before
the attention and back afterwards, so that windows connect neighbours across the unshifted borders. A mask separates
positions that are neighbours only because of the roll.

| symbol | argument or parameter |                                                            |
|--------|-----------------------|------------------------------------------------------------|
| w      | `window_size`         | height and width of a window                               |
| B̂      | `position_bias`       | `((2w - 1)², heads)`, row `(dy + w - 1)(2w - 1) + dx + w - 1` |
| d      |                       | `embed_dim / num_heads`                                    |
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.arrays import first, smaller, value_above
from jax_attention.checks import align, check_boolean, check_divisible, check_keep, check_positive
from jax_attention.layers import Dropout, Factory, linear, parameter
from jax_attention.ops import attend
from jax_attention.vision.grids import GridOutput, check_grid, pad_grid


@checked
def split_windows(
    x: Shaped[Array, "batch height width embed"], window_size: int
) -> Shaped[Array, "batch windows area embed"]:
    """Split a grid into windows, with windows and their positions in row-major order."""
    return rearrange(x, "b (y r) (x c) e -> b (y x) (r c) e", r=window_size, c=window_size)


@checked
def merge_windows(
    windows: Float[Array, "batch windows area embed"], window_size: int, height: int, width: int
) -> Float[Array, "batch height width embed"]:
    """Assemble a grid from windows: the inverse of `split_windows`."""
    rows, columns = height // window_size, width // window_size
    sizes = {"y": rows, "x": columns, "r": window_size, "c": window_size}
    return rearrange(windows, "b (y x) (r c) e -> b (y r) (x c) e", **sizes)


@checked
def relative_positions(window_size: int) -> Int[Array, "area area"]:
    """Row of the bias table for each query and key of a window, one row per relative position."""
    places = jnp.arange(window_size**2)  # area
    rows, columns = places // window_size, places % window_size
    down = rows[:, None] - rows[None] + window_size - 1  # area area
    across = columns[:, None] - columns[None] + window_size - 1  # area area
    return down * (2 * window_size - 1) + across


@checked
def shifted_regions(
    height: int, width: int, window_size: int, shift: int
) -> Bool[Array, "windows area area"]:
    """Mask of the windows of a rolled grid, True for pairs of positions that the roll has not brought together.

    Args:
        height, width: size of the grid; multiples of `window_size`.
        window_size: height and width of a window.
        shift: number of positions by which the grid was rolled up and to the left.
        device: device of the result.
    """
    rows = jnp.arange(height) >= height - shift  # height, True where rolled from the top
    columns = jnp.arange(width) >= width - shift  # width, True where rolled from the left
    regions = jnp.where(rows, 2, 0)[:, None] + jnp.where(columns, 1, 0)[None]  # height width
    regions = split_windows(regions[None, :, :, None], window_size)[0, :, :, 0]  # windows area
    return regions[:, :, None] == regions[:, None, :]  # windows area area


def shape_in_windows(shape: tuple[int, ...], num_heads: int, window_size: int) -> tuple[int, ...]:
    """Shape of the weights for a grid of the given shape, `(batch, windows, heads, area, area)`."""
    num_windows = -(-shape[1] // window_size) * -(-shape[2] // window_size)  # rounded up
    return (shape[0], num_windows, num_heads, window_size**2, window_size**2)


def check_shift(shift: int, window_size: int) -> None:
    """Raise ValueError unless a shift is at least 0 and below the window size."""
    if not 0 <= shift < window_size:
        raise ValueError(f"shift must be at least 0 and below window_size={window_size}, got {shift}")


@checked
class WindowAttention(nnx.Module):
    """Multi-head self-attention within each window of a grid (Liu et al. 2021, section 3.2).

    A grid that windows do not tile is padded with zeros at the bottom and right, as in Swin. Queries attend to the
    padding like to any other position; it is removed from the output.

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        window_size: height and width of a window.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: sizes that do not divide, an empty window, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window_size: int,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        check_positive(window_size=window_size)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.window_size = window_size
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.position_bias = parameter((2 * window_size - 1) ** 2, num_heads, **factory)
        self.dropout = Dropout(dropout, rngs=rngs)

    def __call__(
        self,
        x: Float[Array, "batch height width embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch windows heads area area"] | None = None,
    ) -> GridOutput:
        """Apply self-attention within each window.

        Args:
            x: input grid, `(batch, height, width, embed_dim)`.
            mask: boolean mask, `(batch|1, windows|1, heads|1, area|1, area)`, True where a query may attend to a key,
                with windows and positions in row-major order; None for no mask.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, height, width, embed_dim)` and weights `(batch, windows, heads, area, area)`, where area is
            `window_size ** 2`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_grid("x", x, self.embed_dim)
        _, height, width, _ = x.shape
        side, shape = self.window_size, self.weights_shape(x.shape)
        if mask is not None:
            check_boolean("mask", mask)
            mask = align("mask", mask, shape)
        check_keep(dropout_keep, shape)
        padded = pad_grid(x, (side, side))  # batch padded_height padded_width embed
        windows = split_windows(padded, side)  # batch windows area embed
        query = self._split_heads(self.q_proj(windows))  # batch windows heads area head_dim
        key = self._split_heads(self.k_proj(windows))  # batch windows heads area head_dim
        value = self._split_heads(self.v_proj(windows))  # batch windows heads area head_dim
        bias = self.position_bias[...][relative_positions(side)]  # area area heads
        heads, weights = attend(
            query,
            key,
            value,
            rearrange(bias, "query key heads -> 1 1 heads query key"),
            mask,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        merged = rearrange(heads, "b windows heads area d -> b windows area (heads d)")
        output = merge_windows(self.out_proj(merged), side, *padded.shape[1:3])
        return GridOutput(first(first(output, height, 1), width, 2), weights)  # batch height width embed

    def weights_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the weights for a grid of the given shape, `(batch, windows, heads, area, area)`."""
        return shape_in_windows(shape, self.num_heads, self.window_size)

    def _split_heads(
        self, x: Float[Array, "batch windows area embed"]
    ) -> Float[Array, "batch windows heads area head_dim"]:
        return rearrange(x, "b windows area (heads d) -> b windows heads area d", heads=self.num_heads)


@checked
class ShiftedWindowAttention(nnx.Module):
    """Window attention with windows shifted down and to the right by `shift` positions (Liu et al. 2021).

    With `shift=0` it is `WindowAttention`. As in Swin, a grid that fits into one window in either direction is not
    shifted.

    Args:
        embed_dim, num_heads, window_size, bias, dropout: as in `WindowAttention`.
        shift: shift of the windows, at least 0 and below `window_size`; None for `window_size // 2`.

    Raises:
        ValueError: as in `WindowAttention`, or a shift outside [0, `window_size`).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        window_size: int,
        shift: int | None = None,
        *,
        bias: bool = True,
        dropout: float = 0.0,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.shift = window_size // 2 if shift is None else shift
        check_shift(self.shift, window_size)
        self.attention = WindowAttention(
            embed_dim, num_heads, window_size, bias=bias, dropout=dropout, **factory
        )

    def __call__(
        self,
        x: Float[Array, "batch height width embed"],
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch windows heads area area"] | None = None,
    ) -> GridOutput:
        """Apply self-attention within each shifted window; arguments and errors as in `WindowAttention`.

        Returns:
            Output, and weights `(batch, windows, heads, area, area)` of the rolled grid: its position (y, x) is the
            position (y + shift, x + shift) of `x`, modulo the size of the grid.
        """
        check_grid("x", x, self.attention.embed_dim)
        check_keep(dropout_keep, self.attention.weights_shape(x.shape))
        _, height, width, _ = x.shape
        side = self.attention.window_size
        shift = value_above(smaller(height, width), side, self.shift)
        if isinstance(shift, int) and shift == 0:
            return self.attention(x, need_weights=need_weights, dropout_keep=dropout_keep)
        x = pad_grid(x, (side, side))  # batch padded_height padded_width embed
        regions = shifted_regions(x.shape[1], x.shape[2], side, shift)
        output, weights = self.attention(
            jnp.roll(x, (-shift, -shift), (1, 2)),
            regions[None, :, None],
            need_weights=need_weights,
            dropout_keep=dropout_keep,
        )
        output = jnp.roll(output, (shift, shift), (1, 2))
        return GridOutput(first(first(output, height, 1), width, 2), weights)  # batch height width embed


def main() -> None:
    """Show the four shifted windows of a 4 by 4 grid; the mask divides three of them."""
    from jax_attention.demonstration import draw, fill

    attention = fill(ShiftedWindowAttention(embed_dim=4, num_heads=1, window_size=2, rngs=nnx.Rngs(0)))
    output, weights = attention(draw(1, 4, 4, 4))
    assert weights is not None
    print("ShiftedWindowAttention: output", tuple(output.shape), "weights", tuple(weights.shape))
    for number, window in enumerate(weights[0, :, 0].tolist()):
        print(f"window {number}")
        for row in window:
            print(" ".join(f"{weight:.3f}" for weight in row))


if __name__ == "__main__":
    main()
