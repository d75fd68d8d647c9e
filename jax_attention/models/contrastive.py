r"""A contrastive model that embeds texts and images in one space, as CLIP (Radford et al. 2021).

$$ \mathrm{scores} = e^{\tau}\, \hat{t}\, \hat{v}^\top, \qquad
   t = W_t\, \mathrm{decoder}(\mathrm{tokens})_{\mathrm{end}}, \quad v = W_v\, \mathrm{vit}(\mathrm{image})_0 $$

The text tower is a `Decoder` or a `LanguageModel` without its output head; the image tower is a `VisionTransformer`.
SigLIP (Zhai et al. 2023) has an encoder of texts, attention pooling of patches, no projection of images and a bias of
the scores.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.layers import Factory, constant_parameter, linear
from jax_attention.models.decoder import Decoder, DecoderConfig
from jax_attention.models.description import ModelSpec, Part
from jax_attention.models.language import LanguageModel
from jax_attention.models.part_builder import build_pooling
from jax_attention.models.token_masks import real_tokens
from jax_attention.models.vision_transformer import VisionTransformer, VisionTransformerConfig
from jax_attention.outputs import ContrastiveOutput


@checked
@dataclass(frozen=True)
class ContrastiveConfig:
    """Sizes of a contrastive model.

    Attributes:
        text: sizes of the text tower, a causal decoder or a described model.
        image: sizes of the image tower.
        feature_dim: number of features of the shared space.
        end_token: token id whose first occurrence gives the text's vector; None for the position of the highest id.
        text_pooling: pooling of the text in place of the end token, such as `LastPosition`; None for the end token.
        text_bias: whether the projection of the texts has a bias.
        image_projection: whether the vectors of the images are projected to the shared space.
        score_bias: whether the scores have a learned bias.

    Raises:
        ValueError: images are not projected and have another number of features than the shared space.
    """

    text: DecoderConfig | ModelSpec
    image: VisionTransformerConfig
    feature_dim: int
    end_token: int | None = None
    text_pooling: Part | None = None
    text_bias: bool = False
    image_projection: bool = True
    score_bias: bool = False

    def __post_init__(self) -> None:
        if not self.image_projection and self.image.embed_dim != self.feature_dim:
            raise ValueError(
                f"feature_dim must be the embed_dim={self.image.embed_dim} of images without a projection, "
                f"got {self.feature_dim}"
            )


@checked
class ContrastiveModel(nnx.Module):
    """Contrastive model: similarity scores of texts and images (Radford et al. 2021).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: the sizes of a tower are invalid.
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
        self.text: Any = (
            Decoder(config.text, **factory)
            if isinstance(config.text, DecoderConfig)
            else LanguageModel(replace(config.text, tied=True), **factory)
        )
        self.image = VisionTransformer(config.image, **factory)
        self.text_pooling: Any = (
            None
            if config.text_pooling is None
            else build_pooling(config.text_pooling, config.text.embed_dim, {**factory})
        )
        self.text_proj = linear(config.text.embed_dim, features, bias=config.text_bias, **factory)
        self.image_proj = (
            linear(config.image.embed_dim, features, bias=False, **factory)
            if config.image_projection
            else None
        )
        self.logit_scale = constant_parameter(value=2.6592, **factory)
        self.logit_bias = constant_parameter(value=-10.0, **factory) if config.score_bias else None

    def __call__(
        self,
        tokens: Int[Array, "texts length"],
        image: Float[Array, "images height width channels"],
        mask: Shaped[Array, "..."] | None = None,
    ) -> ContrastiveOutput:
        """Score every text against every image.

        Args:
            tokens: token ids of the texts.
            image: images, channels last.
            mask: boolean mask, False at padding, such as `padding_mask(tokens, pad_id)`; None for no padding.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match, or the images have another size.
        """
        text = _unit(self.read(tokens, mask))  # texts features
        looked = _unit(self.look(image))  # images features
        scores = jnp.exp(self.logit_scale[...]) * (text @ looked.T)  # texts images
        if self.logit_bias is not None:
            scores = scores + self.logit_bias[...]
        return ContrastiveOutput(scores, text, looked)

    @checked
    def read(
        self, tokens: Int[Array, "texts length"], mask: Shaped[Array, "..."] | None = None
    ) -> Float[Array, "texts features"]:
        """Embed the texts; vectors are not normalised. Arguments as in the model's call."""
        read = self.text.read(tokens, mask).output  # texts length embed
        if self.text_pooling is not None:
            real = None if mask is None else real_tokens(mask, read)  # texts length
            return self.text_proj(self.text_pooling(read, real))
        marks = tokens if self.config.end_token is None else tokens == self.config.end_token
        ends = jnp.argmax(jnp.asarray(marks, dtype=jnp.int32), axis=-1)  # texts
        last = jnp.take_along_axis(read, ends[:, None, None], axis=1)  # texts 1 embed
        return self.text_proj(last[:, 0])

    @checked
    def look(self, image: Float[Array, "images height width channels"]) -> Float[Array, "images features"]:
        """Embed the images; vectors are not normalised."""
        looked = self.image.pool(self.image(image).last_hidden_state)  # images embed
        return looked if self.image_proj is None else self.image_proj(looked)


def _unit(x: Float[Array, "rows features"]) -> Float[Array, "rows features"]:
    return x / jnp.sqrt((x * x).sum(axis=-1, keepdims=True))
