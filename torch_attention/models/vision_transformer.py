r"""A Vision Transformer: patch embedding, pre-norm layers and a head on the class token.

$$ z \leftarrow \mathrm{block}(z), \qquad y = \mathrm{head}(\mathrm{norm}(z)_0) $$

It combines `PatchEmbedding` and `ViTBlock` (Dosovitskiy et al. 2020). CLIP's image tower (Radford et al. 2021) has an
additional norm before the first block, and no bias in its patch projection; here that bias is zero. With a
`LayerSpec`, the layers have other parts: the LayerScale and gated feed-forward network of DINOv2, the relative
positions of BEiT, the rotary positions of DINOv3.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.layers import Factory, linear
from torch_attention.models.arrangements.layer import Layer, LayerCall
from torch_attention.models.description import LayerSpec, Part
from torch_attention.models.layer_builder import build_layer
from torch_attention.models.part_builder import build_pooling, build_position
from torch_attention.models.tasks.pooling import pooled_dim
from torch_attention.models.token_mixers import check_shares_position
from torch_attention.norms import layer_norm, normalise
from torch_attention.outputs import AttentionOutput, CachedOutput, EncoderOutput, all_weights
from torch_attention.vision.vit import PatchEmbedding, ViTBlock


@checked
@dataclass(frozen=True)
class VisionTransformerConfig:
    """Sizes of a Vision Transformer.

    Attributes:
        image_size: height and width of the images.
        patch_size: height and width of a patch; pixels beyond the last complete patch are left out.
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
        class_token: whether there is a class token in front of the patches.
        num_registers: number of learned tokens after the class token, the registers of Darcet et al. 2023.
        positions: whether class token and patches have learned positions.
        register_positions: whether registers have learned positions, too, as DeiT's distillation token.
        class_position: whether the class token has a learned position; False for DeiT III, where only patches have one.
        layer: description of each layer, in place of `num_heads`, `ffn_dim` and `activation`; None for `ViTBlock`.
        position: positional encoding that all layers of `layer` share; None for none.
        final_norm: whether the output of the last layer is normalised.
        pooling: pooling of the output in place of the class token, such as `MeanPooling`; None for the class token.
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
    class_token: bool = True
    num_registers: int = 0
    positions: bool = True
    register_positions: bool = False
    class_position: bool = True
    layer: LayerSpec | None = None
    position: Part | None = None
    final_norm: bool = True
    pooling: Part | None = None


@checked
class VisionTransformer(nn.Module):
    """Vision Transformer, from images to one vector per patch and one per image (Dosovitskiy et al. 2020).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: the image is smaller than a patch, the heads do not divide the features, a part is unknown or does
            not fit, there is a shared positional encoding without a described layer, or a pooler, a classifier or
            registers without a class token or pooling.
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
            config.image_size,
            config.patch_size,
            config.in_channels,
            dim,
            class_token=config.class_token,
            num_registers=config.num_registers,
            positions=config.positions,
            register_positions=config.register_positions,
            class_position=config.class_position,
            **factory,
        )
        self.embedding_norm = layer_norm(dim, eps=eps, **factory) if config.embedding_norm else None
        self.position: Any = (
            None if config.position is None else build_position(config.position, dim, {**factory})
        )
        self.layers: Any = nn.ModuleList([_layer(config, factory) for _ in range(config.num_layers)])
        if self.position is not None:
            if config.layer is None:
                raise ValueError("position must be None without a layer that takes it, such as a LayerSpec")
            check_shares_position(self.layers)
        self.final_norm = layer_norm(dim, eps=eps, **factory) if config.final_norm else None
        self.pooling: Any = (
            None if config.pooling is None else build_pooling(config.pooling, dim, {**factory})
        )
        self.has_pooled = config.class_token or self.pooling is not None
        if not self.has_pooled and (config.pooler or config.num_classes is not None):
            raise ValueError("a pooler or a classifier needs a class token or a pooling, got neither")
        pooled = pooled_dim(self.pooling, dim)
        self.pooler = linear(pooled, dim, **factory) if config.pooler else None
        features = dim if config.pooler else pooled
        self.head = None if config.num_classes is None else linear(features, config.num_classes, **factory)

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
            Normalised vectors `(batch, prefix + patches, embed)`, with class token and registers as prefix; the class
            token or the pooled vector after pooler and head, `(batch, features)`, or None without either; a tuple with
            the attention weights of each layer, or None; and a tuple of hidden states, or None.

        Raises:
            ValueError: the images have another size.
        """
        x = self.patches(image)  # batch length embed
        x = x if self.embedding_norm is None else normalise(self.embedding_norm, x)
        layers, states = [], [x]
        for layer in self.layers:
            layers.append(self._run(layer, x, need_weights))
            x = layers[-1].output  # batch length embed
            states.append(x)
        x = x if self.final_norm is None else normalise(self.final_norm, x)  # batch length embed
        weights = all_weights(layer.weights for layer in layers)
        hidden = tuple(states) if need_hidden_states else None
        return EncoderOutput(x, self._pooled(x) if self.has_pooled else None, weights, hidden)

    def _run(
        self, layer: Any, x: Float[Tensor, "batch length embed"], need_weights: bool
    ) -> AttentionOutput | CachedOutput:
        if self.config.layer is None:
            return layer(x, need_weights=need_weights)
        call: LayerCall = {
            "positions": None,
            "position": self.position,
            "memory": None,
            "reads_on": False,
            "need_weights": need_weights,
        }
        return layer.finish(layer(x, **call), None)

    @checked
    def pool(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch features"]:
        """The vector of an image before pooler and classifier, from the last hidden states `x`."""
        return x[:, 0] if self.pooling is None else self.pooling(x)

    def _pooled(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch features"]:
        pooled = self.pool(x)
        pooled = pooled if self.pooler is None else torch.tanh(self.pooler(pooled))
        return pooled if self.head is None else self.head(pooled)


def _layer(config: VisionTransformerConfig, factory: Factory) -> ViTBlock | Layer:
    if config.layer is not None:
        return build_layer(config.layer, config.embed_dim, {**factory}, is_causal=False)
    return ViTBlock(
        config.embed_dim,
        config.num_heads,
        config.ffn_dim,
        activation=config.activation,
        norm_eps=config.norm_eps,
        **factory,
    )
