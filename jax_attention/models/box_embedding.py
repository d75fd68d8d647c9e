r"""Embeddings of boxes: the place and the size of each token on a page (Xu et al. 2019).

$$ e = X_{\mathrm{left}} + Y_{\mathrm{top}} + X_{\mathrm{right}} + Y_{\mathrm{bottom}}
   + H_{\mathrm{bottom} - \mathrm{top}} + W_{\mathrm{right} - \mathrm{left}} $$
"""

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int

from jax_attention.arguments import checked
from jax_attention.layers import Factory, embedding
from jax_attention.models.token_numbers import check_numbers


@checked
class BoxEmbedding(nnx.Module):
    """Sum of the embeddings of the four sides, the height and the width of a box (LayoutLM: Xu et al. 2019).

    Args:
        num_coordinates: number of values of a coordinate, a height or a width.
        embed_dim: number of features per position.
    """

    def __init__(
        self,
        num_coordinates: int,
        embed_dim: int,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.num_coordinates = num_coordinates
        self.x_embedding = embedding(num_coordinates, embed_dim, **factory)
        self.y_embedding = embedding(num_coordinates, embed_dim, **factory)
        self.height_embedding = embedding(num_coordinates, embed_dim, **factory)
        self.width_embedding = embedding(num_coordinates, embed_dim, **factory)

    def __call__(
        self, boxes: Int[Array, "..."] | None, tokens: Int[Array, "batch length"]
    ) -> Float[Array, "batch length embed"]:
        """Embed the boxes of tokens.

        Args:
            boxes: left, top, right and bottom coordinate of each token, `(batch, length, 4)`; None for all 0.
            tokens: token ids, which give the shape.

        Raises:
            ValueError: boxes of another shape, or a coordinate, height or width outside the embeddings.
        """
        if boxes is None:
            boxes = jnp.zeros((*tokens.shape, 4), dtype=tokens.dtype)
        if tuple(boxes.shape) != (*tokens.shape, 4):
            raise ValueError(f"boxes must have shape {(*tokens.shape, 4)}, got {tuple(boxes.shape)}")
        left, top, right, bottom = (boxes[..., side] for side in range(4))  # batch length
        height, width = bottom - top, right - left  # batch length
        check_numbers("boxes", boxes, self.num_coordinates)
        check_numbers("heights of boxes", height, self.num_coordinates)
        check_numbers("widths of boxes", width, self.num_coordinates)
        return (
            self.x_embedding(left)
            + self.y_embedding(top)
            + self.x_embedding(right)
            + self.y_embedding(bottom)
            + self.height_embedding(height)
            + self.width_embedding(width)
        )
