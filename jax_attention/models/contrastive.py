r"""Texts and images in one space, as CLIP has them (Radford et al. 2021).

$$ \mathrm{scores} = e^{\tau}\, \hat{t}\, \hat{v}^\top, \qquad
   t = W_t\, \mathrm{decoder}(\mathrm{tokens})_{\mathrm{end}}, \quad v = W_v\, \mathrm{vit}(\mathrm{image})_0 $$

The text tower is a `Decoder` without its scores of tokens, the image tower a `VisionTransformer`.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.layers import Factory, constant_parameter, linear
from jax_attention.models.decoder import Decoder, DecoderConfig
from jax_attention.models.vision_transformer import VisionTransformer, VisionTransformerConfig
from jax_attention.outputs import ContrastiveOutput


@checked
@dataclass(frozen=True)
class ContrastiveConfig:
    """The sizes of two towers that meet.

    Attributes:
        text: of the tower that reads.
        image: of the tower that looks.
        feature_dim: features that both have in the end.
        end_token: the first token of this number stands for its text; None for the highest number in it.
    """

    text: DecoderConfig
    image: VisionTransformerConfig
    feature_dim: int
    end_token: int | None = None


@checked
class ContrastiveModel(nnx.Module):
    """Says how well texts fit images (Radford et al. 2021).

    Args:
        config: the sizes.

    Raises:
        ValueError: as the two towers.
    """

    def __init__(
        self,
        config: ContrastiveConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        features = config.feature_dim
        self.config = config
        self.text = Decoder(config.text, **factory)
        self.image = VisionTransformer(config.image, **factory)
        self.text_proj = linear(config.text.embed_dim, features, bias=False, **factory)
        self.image_proj = linear(config.image.embed_dim, features, bias=False, **factory)
        self.logit_scale = constant_parameter(value=2.6592, **factory)

    def __call__(
        self,
        tokens: Int[Array, "texts length"],
        image: Float[Array, "images height width channels"],
        mask: Shaped[Array, "..."] | None = None,
    ) -> ContrastiveOutput:
        """Score every text against every image.

        Args:
            tokens: token numbers of the texts.
            image: the images, channels last.
            mask: False where a text is padded, as from `padding_mask`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit, or images of another size.
        """
        text = _unit(self.read(tokens, mask))  # texts features
        looked = _unit(self.look(image))  # images features
        return ContrastiveOutput(jnp.exp(self.logit_scale[...]) * (text @ looked.T), text, looked)

    @checked
    def read(
        self, tokens: Int[Array, "texts length"], mask: Shaped[Array, "..."] | None = None
    ) -> Float[Array, "texts features"]:
        """The vector of each text, of any length; arguments as in a call of the model."""
        read = self.text.read(tokens, mask).output  # texts length embed
        marks = tokens if self.config.end_token is None else tokens == self.config.end_token
        ends = jnp.argmax(jnp.asarray(marks, dtype=jnp.int32), axis=-1)  # texts
        last = jnp.take_along_axis(read, ends[:, None, None], axis=1)  # texts 1 embed
        return self.text_proj(last[:, 0])

    @checked
    def look(self, image: Float[Array, "images height width channels"]) -> Float[Array, "images features"]:
        """The vector of each image, of any length."""
        return self.image_proj(self.image(image).output[:, 0])


def _unit(x: Float[Array, "rows features"]) -> Float[Array, "rows features"]:
    return x / jnp.sqrt((x * x).sum(axis=-1, keepdims=True))
