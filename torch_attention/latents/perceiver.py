r"""Perceiver attention: a few learned vectors query an input of any length (Jaegle et al. 2021).

$$ z' = z + \mathrm{MHA}(\mathrm{LN}(z),\, \mathrm{LN}(x)) $$

One change from `MultiHeadCrossAttention`: the queries are m learned vectors, the latents. The cost is linear in the
length of the input, and the output has m positions for any input. The same step is Flamingo's resampler and the core of
the Q-Former.

| symbol | argument or parameter |                                                              |
|--------|-----------------------|--------------------------------------------------------------|
| z      | `latents`             | `(num_latents, latent_dim)`, learned, or given with a call   |
| x      | `x`                   | the input                                                    |
| m      | `num_latents`         |                                                              |
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_divisible, check_positive, check_sequence
from torch_attention.latents.learned import check_masks, for_each_element
from torch_attention.layers import Dropout, Factory, linear, parameter
from torch_attention.norms import layer_norm, normalise
from torch_attention.ops import attend, merge_heads, split_heads
from torch_attention.outputs import AttentionOutput


@checked
class PerceiverAttention(nn.Module):
    """Multi-head attention from learned latents to an input, with pre-norms (Jaegle et al. 2021, section 3.1).

    Args:
        num_latents: number of latents.
        latent_dim: features of a latent, and of the output.
        input_dim: features of the input.
        num_heads: number of heads; must divide `embed_dim`.
        embed_dim: features of queries, keys and values; `input_dim` if None, as in the authors' code.
        residual: whether the latents are added to the output; False in a decoder, where query and output differ in
            meaning (Jaegle et al. 2021, Perceiver IO).
        norm_eps: constant added to the variance in each normalisation.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, no latents, or a rate outside [0, 1).
    """

    def __init__(
        self,
        num_latents: int,
        latent_dim: int,
        input_dim: int,
        num_heads: int,
        *,
        embed_dim: int | None = None,
        residual: bool = True,
        norm_eps: float = 1e-5,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        embed_dim = input_dim if embed_dim is None else embed_dim
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        check_positive(num_latents=num_latents)
        factory = Factory(device=device, dtype=dtype)
        self.num_latents = num_latents
        self.latent_dim = latent_dim
        self.input_dim = input_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads
        self.residual = residual
        self.latents = parameter(num_latents, latent_dim, **factory)
        self.latent_norm = layer_norm(latent_dim, eps=norm_eps, **factory)
        self.input_norm = layer_norm(input_dim, eps=norm_eps, **factory)
        self.q_proj = linear(latent_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(input_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(input_dim, embed_dim, bias=bias, **factory)
        self.out_proj = linear(embed_dim, latent_dim, bias=bias, **factory)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch key input_dim"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        latents: Float[Tensor, "batch latents latent_dim"] | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch heads latents key"] | None = None,
    ) -> AttentionOutput:
        """Apply attention from the latents to the input.

        Args:
            x: input sequence, `(batch, key, input_dim)`.
            mask: boolean mask, True where a latent may attend to a key; None for no mask.
                `padding_mask(tokens, pad_id)` makes one for padded batches.
            latents: queries instead of the learned latents, such as an earlier output or decoder queries, in any
                number; None for the learned latents.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, latents, latent_dim)` and weights `(batch, heads, latents, key)`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_sequence("x", x, self.input_dim)
        if latents is not None:
            check_sequence("latents", latents, self.latent_dim, batch=x.shape[0])
        num_latents = self.num_latents if latents is None else latents.shape[1]
        check_masks(x, num_latents, self.num_heads, mask, dropout_keep)
        if latents is None:
            latents = for_each_element(self.latents[...], x.shape[0])  # batch latents latent_dim
        inputs = normalise(self.input_norm, x)  # batch key input_dim
        query = split_heads(
            self.q_proj(normalise(self.latent_norm, latents)), self.head_dim
        )  # batch heads latents head_dim
        key = split_heads(self.k_proj(inputs), self.head_dim)  # batch heads key head_dim
        value = split_heads(self.v_proj(inputs), self.head_dim)  # batch heads key head_dim
        heads, weights = attend(
            query,
            key,
            value,
            mask=mask,
            need_weights=need_weights,
            dropout_keep=self.dropout.keep_weights(query, key, dropout_keep),
            dropout_rate=self.dropout.rate,
        )
        output = self.out_proj(merge_heads(heads))  # batch latents latent_dim
        return AttentionOutput(latents + output if self.residual else output, weights)


def main() -> None:
    """Show three latents that attend to a sentence of four words and one padding token."""
    from torch_attention.demonstration import draw, fill, show
    from torch_attention.masks import length_mask

    words, latents = ["the", "cat", "sat", "still", "-"], ["one", "two", "three"]
    attention = fill(PerceiverAttention(num_latents=3, latent_dim=4, input_dim=6, num_heads=2))
    mask = length_mask(torch.as_tensor([4]), 5)
    show("PerceiverAttention", attention(draw(1, 5, 6), mask), latents, words)


if __name__ == "__main__":
    main()
