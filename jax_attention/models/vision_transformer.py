r"""A Vision Transformer: an image as patches, pre-norm layers, and what the class token has gathered.

$$ z \leftarrow \mathrm{block}(z), \qquad y = \mathrm{head}(\mathrm{norm}(z)_0) $$

`PatchEmbedding` and `ViTBlock` (Dosovitskiy et al. 2020) put together. CLIP's image tower (Radford et al. 2021) has one
norm more, before the first block, and no bias in the map of the patches; here that is zero.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.layers import Factory, layer_norm, linear, normalise
from jax_attention.outputs import EncoderOutput, all_weights
from jax_attention.vision.vit import PatchEmbedding, ViTBlock


@checked
@dataclass(frozen=True)
class VisionTransformerConfig:
    """The sizes of a Vision Transformer.

    Attributes:
        image_size: height and width of every image.
        patch_size: height and width of a patch; must divide those of the image.
        in_channels: channels of an image.
        embed_dim: features of a patch.
        num_heads: heads of each layer; must divide `embed_dim`.
        num_layers: number of layers.
        ffn_dim: features inside the feed-forward network.
        activation: of the feed-forward network.
        norm_eps: added to the variance in each normalisation.
        embedding_norm: whether the embedded patches are normalised.
        pooler: whether the class token goes through a map and a tanh.
        num_classes: scores that a map makes of the class token; None for no such map.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    in_channels: int
    embed_dim: int
    num_heads: int
    num_layers: int
    ffn_dim: int
    activation: str = "gelu"
    norm_eps: float = 1e-6
    embedding_norm: bool = False
    pooler: bool = False
    num_classes: int | None = None


@checked
class VisionTransformer(nnx.Module):
    """Images in, a vector for each patch and one for the whole out (Dosovitskiy et al. 2020).

    Args:
        config: the sizes.

    Raises:
        ValueError: patches that do not tile the image, heads that do not divide, or an unknown activation.
    """

    def __init__(
        self,
        config: VisionTransformerConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        dim, eps = config.embed_dim, config.norm_eps
        self.config = config
        self.patches = PatchEmbedding(
            config.image_size, config.patch_size, config.in_channels, dim, **factory
        )
        self.embedding_norm = layer_norm(dim, eps=eps, **factory) if config.embedding_norm else None
        self.layers = nnx.List(
            [
                ViTBlock(
                    dim,
                    config.num_heads,
                    config.ffn_dim,
                    activation=config.activation,
                    norm_eps=eps,
                    **factory,
                )
                for _ in range(config.num_layers)
            ]
        )
        self.final_norm = layer_norm(dim, eps=eps, **factory)
        self.pooler = linear(dim, dim, **factory) if config.pooler else None
        self.head = None if config.num_classes is None else linear(dim, config.num_classes, **factory)

    def __call__(
        self,
        image: Float[Array, "batch height width channels"],
        *,
        need_weights: bool = False,
        need_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Look at images.

        Args:
            image: channels last, and of the size that there are positions for.
            need_weights: whether to return the weights of every layer.
            need_hidden_states: whether to return the hidden states of every layer.

        Returns:
            Vectors `(batch, 1 + patches, embed)`, normalised; the class token's, or the output of pooler or head,
            `(batch, features)`; a tuple of weights, one a layer, or None; and a tuple of hidden states, or None.

        Raises:
            ValueError: images of another size.
        """
        x = self.patches(image)  # batch length embed
        x = x if self.embedding_norm is None else normalise(self.embedding_norm, x)
        layers, states = [], [x]
        for layer in self.layers:
            layers.append(layer(x, need_weights=need_weights))
            x = layers[-1].output  # batch length embed
            states.append(x)
        x = normalise(self.final_norm, x)  # batch length embed
        weights = all_weights(layer.weights for layer in layers)
        hidden = tuple(states) if need_hidden_states else None
        return EncoderOutput(x, self._gathered(x[:, 0]), weights, hidden)

    def _gathered(self, token: Float[Array, "batch embed"]) -> Float[Array, "batch features"]:
        token = token if self.pooler is None else jnp.tanh(self.pooler(token))
        return token if self.head is None else self.head(token)
