r"""Grids of patches, the inputs of the stages of hierarchical vision models (Liu et al. 2021, Swin Transformer).

$$ g_{yx} = \mathrm{LN}(E\, p_{yx}) + P_{yx}, \qquad
   g'_{yx} = W\, \mathrm{LN}([g_{2y,2x};\, g_{2y+1,2x};\, g_{2y,2x+1};\, g_{2y+1,2x+1}]) $$

`PatchGrid` embeds the patches of an image, and `PatchMerging` merges 2 by 2 positions of a grid into one. Both pad a
grid that their patches do not tile with zeros at the bottom and right. One change from `PatchEmbedding`: the result is
a grid without a class token, and positions are optional.

| symbol | argument or parameter |                                          |
|--------|-----------------------|------------------------------------------|
| p      | `patch_size`          | patches of the image                     |
| E      | `patch_proj`          | a convolution whose stride is its kernel |
| P      | `positions`           | one learned vector per patch             |
| W      | `merge_proj`          | without a bias                           |
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.layers import Factory, conv2d, convolve, linear, parameter
from torch_attention.norms import layer_norm, normalise
from torch_attention.vision.grids import check_grid, pad_grid


@checked
class PatchGrid(nn.Module):
    """Embedding of an image as a grid of normalised patches (Liu et al. 2021, section 3.1).

    Args:
        in_dim: channels of the image.
        embed_dim: features of a patch.
        patch_size: height and width of a patch.
        image_size: height and width of the images, for `positions`; None for any size.
        positions: whether patches have learned positions; `patch_size` must divide `image_size` then.
        norm_eps: constant added to the variance in the normalisation.

    Raises:
        ValueError: there are positions, and `image_size` is None or `patch_size` does not divide it.
    """

    def __init__(
        self,
        in_dim: int,
        embed_dim: int,
        patch_size: tuple[int, int],
        image_size: tuple[int, int] | None = None,
        *,
        positions: bool = False,
        norm_eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.in_dim = in_dim
        self.patch_size = patch_size
        self.patch_proj = conv2d(in_dim, embed_dim, patch_size, stride=patch_size, **factory)
        self.norm = layer_norm(embed_dim, eps=norm_eps, **factory)
        self.grid_size = _grid_size(image_size, patch_size) if positions else None
        self.positions = (
            None
            if self.grid_size is None
            else parameter(self.grid_size[0] * self.grid_size[1], embed_dim, **factory)
        )

    def forward(
        self, x: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch rows columns embed"]:
        """Embed the patches of the images `x`, `(batch, height, width, in_dim)`.

        Raises:
            ValueError: the images have other channels, or another size than the positions.
        """
        check_grid("x", x, self.in_dim)
        self._check_size(x)
        grid = convolve(self.patch_proj, pad_grid(x, self.patch_size))  # batch rows columns embed
        grid = normalise(self.norm, grid)  # batch rows columns embed
        if self.positions is None or self.grid_size is None:
            return grid
        return grid + rearrange(self.positions[...], "(y x) embed -> y x embed", y=self.grid_size[0])

    def _check_size(self, x: Float[Tensor, "batch height width channels"]) -> None:
        """Raise ValueError unless images have as many patches as there are positions."""
        high, wide = self.patch_size
        patches = -(-x.shape[1] // high), -(-x.shape[2] // wide)  # rounded up
        if self.grid_size is not None and self.grid_size != patches:
            size = (self.grid_size[0] * high, self.grid_size[1] * wide)
            raise ValueError(f"image must have the size {size} of the positions, got {tuple(x.shape[1:3])}")


@checked
class PatchMerging(nn.Module):
    """Grid of half the height and width, whose positions merge 2 by 2 of the input (Liu et al. 2021, section 3.1).

    Args:
        in_dim: features of the input.
        embed_dim: features of the output.
        norm_eps: constant added to the variance in the normalisation.
        norm_last: whether the output is normalised, as in Swin v2, not the merged input.
    """

    def __init__(
        self,
        in_dim: int,
        embed_dim: int,
        *,
        norm_eps: float = 1e-5,
        norm_last: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.in_dim = in_dim
        self.norm_last = norm_last
        self.norm = layer_norm(embed_dim if norm_last else 4 * in_dim, eps=norm_eps, **factory)
        self.merge_proj = linear(4 * in_dim, embed_dim, bias=False, **factory)

    def forward(
        self, x: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch rows columns embed"]:
        """Merge the positions of the grid `x`, `(batch, height, width, in_dim)`.

        Raises:
            ValueError: the grid has other features.
        """
        check_grid("x", x, self.in_dim)
        merged = rearrange(pad_grid(x, (2, 2)), "b (y r) (x c) e -> b y x (c r e)", r=2, c=2)
        if self.norm_last:
            return normalise(self.norm, self.merge_proj(merged))  # batch rows columns embed
        return self.merge_proj(normalise(self.norm, merged))  # batch rows columns embed


def _grid_size(image_size: tuple[int, int] | None, patch_size: tuple[int, int]) -> tuple[int, int]:
    """Number of rows and columns of patches, for positions."""
    if image_size is None or image_size[0] % patch_size[0] or image_size[1] % patch_size[1]:
        raise ValueError(
            f"image_size must be a multiple of patch_size={patch_size} for positions, got {image_size}"
        )
    return image_size[0] // patch_size[0], image_size[1] // patch_size[1]
