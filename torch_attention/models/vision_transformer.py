r"""A Vision Transformer: patch embedding, pre-norm layers and a head on the class token.

$$ z \leftarrow \mathrm{block}(z), \qquad y = \mathrm{head}(\mathrm{norm}(z)_0) $$

It combines `PatchEmbedding` and `ViTBlock` (Dosovitskiy et al. 2020). CLIP's image tower (Radford et al. 2021) has an
additional norm before the first block, and no bias in its patch projection; here that bias is zero.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.layers import Factory, linear
from torch_attention.norms import layer_norm, normalise
from torch_attention.outputs import EncoderOutput, all_weights
from torch_attention.vision.vit import PatchEmbedding, ViTBlock


@checked
@dataclass(frozen=True)
class VisionTransformerConfig:
    """Sizes of a Vision Transformer.

    Attributes:
        image_size: height and width of the images.
        patch_size: height and width of a patch; must divide the image's.
        in_channels: number of channels of an image.
        embed_dim: number of features per patch.
        num_heads: number of attention heads per layer; must divide `embed_dim`.
        num_layers: number of layers.
        ffn_dim: hidden features of the feed-forward network.
        activation: activation of the feed-forward network, as in `FeedForward`.
        norm_eps: epsilon added to the variance in each normalisation.
        embedding_norm: whether the patch embeddings are normalised.
        pooler: whether a linear layer and tanh are applied to the class token.
        num_classes: number of classes of the classifier on the class token; None for no classifier.
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
class VisionTransformer(nn.Module):
    """Vision Transformer, from images to one vector per patch and one per image (Dosovitskiy et al. 2020).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: the patches do not tile the image, the heads do not divide the features, or the activation is
            unknown.
    """

    def __init__(
        self,
        config: VisionTransformerConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim, eps = config.embed_dim, config.norm_eps
        self.config = config
        self.patches = PatchEmbedding(
            config.image_size, config.patch_size, config.in_channels, dim, **factory
        )
        self.embedding_norm = layer_norm(dim, eps=eps, **factory) if config.embedding_norm else None
        self.layers = nn.ModuleList(
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

    def forward(
        self,
        image: Float[Tensor, "batch height width channels"],
        *,
        need_weights: bool = False,
        need_hidden_states: bool = False,
    ) -> EncoderOutput:
        """Encode images.

        Args:
            image: images `(batch, height, width, channels)`, of the configured size.
            need_weights: whether to return the attention weights of every layer.
            need_hidden_states: whether to return the hidden states: the first layer's input and every layer's output.

        Returns:
            Normalised vectors `(batch, 1 + patches, embed)`; the class token after pooler and head,
            `(batch, features)`; a tuple with the attention weights of each layer, or None; and a tuple of hidden
            states, or None.

        Raises:
            ValueError: the images have another size.
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

    def _gathered(self, token: Float[Tensor, "batch embed"]) -> Float[Tensor, "batch features"]:
        token = token if self.pooler is None else torch.tanh(self.pooler(token))
        return token if self.head is None else self.head(token)
