r"""Vision Transformer: an image as a sequence of patches (Dosovitskiy et al. 2020).

$$ z_0 = [c;\, E p_1;\, \dots;\, E p_n] + P, \qquad z' = z + \mathrm{MSA}(\mathrm{LN}(z)), \qquad
   z'' = z' + \mathrm{MLP}(\mathrm{LN}(z')) $$

One change from a block of `Encoder`: the norms precede the sublayers (pre-norm), so that the residual path is never
normalised. `PatchEmbedding` computes z_0, and each `ViTBlock` the next z.

| symbol | argument or parameter |                                                    |
|--------|-----------------------|----------------------------------------------------|
| p_i    | `patch_size`          | patches of the image, in row-major order           |
| E      | `patch_proj`          | a convolution whose stride is its kernel           |
| c      | `class_token`         | learned first token, whose output is used          |
| P      | `positions`           | one learned vector for `c` and for each patch      |
|        | `registers`           | further learned tokens after `c`, only with `num_registers` |
"""

import torch
from einops import repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_pairs, check_sequence
from torch_attention.feed_forward import FeedForward
from torch_attention.layers import Factory, conv2d, convolve, parameter
from torch_attention.norms import layer_norm, normalise
from torch_attention.outputs import AttentionOutput
from torch_attention.self_attention import MultiHeadSelfAttention
from torch_attention.vision.grids import flatten_grid


@checked
class PatchEmbedding(nn.Module):
    """Embedding of an image as a class token and patches, with learned positions (Dosovitskiy et al. 2020, eq. 1).

    Args:
        image_size: height and width of the images.
        patch_size: height and width of a patch; pixels beyond the last complete patch are left out.
        in_channels: channels of the image.
        embed_dim: features of a patch embedding.
        class_token: whether there is a class token in front of the patches.
        num_registers: number of learned tokens after the class token, the registers of Darcet et al. 2023.
        positions: whether class token and patches have learned positions.
        register_positions: whether registers have learned positions, too, as DeiT's distillation token.
        class_position: whether the class token has a learned position; False for DeiT III, where only patches have one.

    Raises:
        ValueError: an image smaller than a patch, registers without a class token, or positions of registers but not of
            the class token.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        patch_size: tuple[int, int],
        in_channels: int,
        embed_dim: int,
        *,
        class_token: bool = True,
        num_registers: int = 0,
        positions: bool = True,
        register_positions: bool = False,
        class_position: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if num_registers and not class_token:
            raise ValueError(
                f"num_registers must be 0 without a class token, which they follow, got {num_registers}"
            )
        if register_positions and not class_position:
            raise ValueError("register_positions must be False without class_position, got True")
        if image_size[0] < patch_size[0] or image_size[1] < patch_size[1]:
            raise ValueError(
                f"image_size must hold a patch, got an image of {image_size} and a patch of {patch_size}"
            )
        factory = Factory(device=device, dtype=dtype)
        num_patches = (image_size[0] // patch_size[0]) * (image_size[1] // patch_size[1])
        self.image_shape = (*image_size, in_channels)
        self.patch_proj = conv2d(in_channels, embed_dim, patch_size, stride=patch_size, **factory)
        self.num_prefix = int(class_token) + num_registers
        self.register_positions = register_positions
        self.class_position = class_position
        placed = num_registers * int(register_positions) + num_patches
        placed += int(class_token and class_position)
        self.class_token = parameter(embed_dim, **factory) if class_token else None
        self.registers = parameter(num_registers, embed_dim, **factory) if num_registers else None
        self.positions = parameter(placed, embed_dim, **factory) if positions else None

    def forward(
        self, image: Float[Tensor, "batch height width channels"]
    ) -> Float[Tensor, "batch length embed"]:
        """Embed the patches in row-major order, after the class token and the registers.

        Args:
            image: images, `(batch, height, width, channels)`, of size `image_size`.

        Returns:
            Embeddings `(batch, prefix + patches, embed_dim)`, with class token and registers as prefix.

        Raises:
            ValueError: an image of another size.
        """
        if tuple(image.shape[1:]) != self.image_shape:
            height, width, channels = self.image_shape
            raise ValueError(
                f"image must have shape (batch, {height}, {width}, {channels}), got {tuple(image.shape)}"
            )
        x = flatten_grid(convolve(self.patch_proj, image))  # batch patches embed
        if self.register_positions:
            x = self._behind_registers(x)  # batch length embed
        if self.class_position:
            x = self._behind_class(x)  # batch length embed
        if self.positions is not None:
            x = x + self.positions[...]  # batch length embed
        if not self.class_position:
            return self._behind_class(self._behind_registers(x))  # batch length embed
        if self.register_positions or self.registers is None:
            return x
        return torch.concatenate([x[:, :1], self._behind_registers(x[:, 1:])], dim=1)  # batch length embed

    def _behind_class(self, x: Float[Tensor, "batch places embed"]) -> Float[Tensor, "batch length embed"]:
        """The class token, then `x`."""
        if self.class_token is None:
            return x
        token = repeat(self.class_token[...], "embed -> batch 1 embed", batch=x.shape[0])
        return torch.concatenate([token, x], dim=1)  # batch length embed

    def _behind_registers(
        self, x: Float[Tensor, "batch places embed"]
    ) -> Float[Tensor, "batch length embed"]:
        """The registers, then `x`."""
        if self.registers is None:
            return x
        registers = repeat(self.registers[...], "places embed -> batch places embed", batch=x.shape[0])
        return torch.concatenate([registers, x], dim=1)  # batch length embed


@checked
class ViTBlock(nn.Module):
    """Pre-norm transformer block: self-attention, then feed-forward (Dosovitskiy et al. 2020, equations 2 and 3).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        ffn_dim: hidden features of the feed-forward network; None for `4 * embed_dim`.
        activation: activation of the feed-forward network: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or
            `"silu"`.
        norm_eps: constant added to the variance in each normalisation; 1e-6 in the paper's code and in timm, 1e-12 in
            Hugging Face's checkpoints.
        bias: whether the linear maps have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, an unknown activation, or a rate outside [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int | None = None,
        *,
        activation: str = "gelu",
        norm_eps: float = 1e-6,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        ffn_dim = 4 * embed_dim if ffn_dim is None else ffn_dim
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.attention = MultiHeadSelfAttention(embed_dim, num_heads, bias=bias, dropout=dropout, **factory)
        self.attention_norm = layer_norm(embed_dim, eps=norm_eps, **factory)
        self.ffn = FeedForward(embed_dim, ffn_dim, activation=activation, bias=bias, **factory)
        self.ffn_norm = layer_norm(embed_dim, eps=norm_eps, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch heads length length"] | None = None,
    ) -> AttentionOutput:
        """Apply one transformer block.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_sequence("x", x, self.embed_dim)
        check_pairs(x, x, mask, dropout_keep, self.num_heads)
        attended, weights = self.attention(
            normalise(self.attention_norm, x), mask, need_weights=need_weights, dropout_keep=dropout_keep
        )
        x = x + attended  # batch length embed
        x = x + self.ffn(normalise(self.ffn_norm, x))  # batch length embed
        return AttentionOutput(x, weights)


def main() -> None:
    """Show the attention weights of a 4 by 6 image: its class token and six patches."""
    from torch_attention.demonstration import draw, fill, show

    embedding = fill(PatchEmbedding(image_size=(4, 6), patch_size=(2, 2), in_channels=3, embed_dim=8))
    block = fill(ViTBlock(embed_dim=8, num_heads=2))
    tokens = embedding(draw(1, 4, 6, 3))
    names = ["class", *(f"({y}, {x})" for y in range(2) for x in range(3))]
    show("ViTBlock", block(tokens), names, names)


if __name__ == "__main__":
    main()
