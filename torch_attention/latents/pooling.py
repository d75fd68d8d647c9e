r"""Attention pooling: a learned query pools a sequence into one vector (Lee et al. 2019; Zhai et al. 2022).

$$ h = \mathrm{MHA}(p,\, x), \qquad y = h + \mathrm{MLP}(\mathrm{LN}(h)) $$

One change from `MultiHeadCrossAttention`: the queries are k learned vectors, the probes. It replaces mean pooling or a
class token. With one probe it is the multihead attention pooling (MAP) head of ViT-G and SigLIP.

| symbol | argument or parameter |                                               |
|--------|-----------------------|-----------------------------------------------|
| p      | `probes`              | `(num_probes, embed_dim)`, learned            |
| k      | `num_probes`          |                                               |
| MLP    | `ffn_dim`             | hidden features; None for no MLP, y = h       |
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_positive, check_sequence
from torch_attention.cross_attention import MultiHeadCrossAttention
from torch_attention.feed_forward import FeedForward
from torch_attention.latents.learned import check_masks, for_each_element
from torch_attention.layers import Factory, parameter
from torch_attention.norms import layer_norm, normalise
from torch_attention.outputs import AttentionOutput


@checked
class AttentionPooling(nn.Module):
    """Pool a sequence by attention from learned probes, with an optional MLP (Zhai et al. 2022, section 2.2).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads; must divide `embed_dim`.
        ffn_dim: hidden features of the feed-forward network; None for no network and no norm.
        num_probes: number of probes, and so of output vectors.
        activation: activation of the feed-forward network: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or
            `"silu"`.
        norm_eps: constant added to the variance in the normalisation.
        bias: whether the linear maps have biases.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, no probes, an unknown activation, or a rate outside
            [0, 1).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int | None = None,
        *,
        num_probes: int = 1,
        activation: str = "gelu_tanh",
        norm_eps: float = 1e-6,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_positive(num_probes=num_probes)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_probes = num_probes
        self.probes = parameter(num_probes, embed_dim, **factory)
        self.attention = MultiHeadCrossAttention(
            embed_dim, embed_dim, embed_dim, num_heads, bias=bias, dropout=dropout, **factory
        )
        self.ffn_norm = None if ffn_dim is None else layer_norm(embed_dim, eps=norm_eps, **factory)
        self.ffn = (
            None
            if ffn_dim is None
            else FeedForward(embed_dim, ffn_dim, activation=activation, bias=bias, **factory)
        )

    def forward(
        self,
        x: Float[Tensor, "batch key embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch heads probes key"] | None = None,
    ) -> AttentionOutput:
        """Apply attention from the probes to the sequence.

        Args:
            x: input sequence, `(batch, key, embed_dim)`.
            mask: boolean mask, True where a probe may attend to a key; None for no mask. `padding_mask(tokens, pad_id)`
                makes one for padded batches.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, num_probes, embed_dim)` and weights `(batch, heads, num_probes, key)`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_sequence("x", x, self.embed_dim)
        check_masks(x, self.num_probes, self.num_heads, mask, dropout_keep)
        probes = for_each_element(self.probes[...], x.shape[0])  # batch probes embed
        pooled, weights = self.attention(
            probes, x, mask, need_weights=need_weights, dropout_keep=dropout_keep
        )  # batch probes embed
        if self.ffn_norm is not None and self.ffn is not None:
            pooled = pooled + self.ffn(normalise(self.ffn_norm, pooled))  # batch probes embed
        return AttentionOutput(pooled, weights)


def main() -> None:
    """Show the attention weights of two probes over a sentence."""
    from torch_attention.demonstration import draw, fill, show

    pooling = fill(AttentionPooling(embed_dim=6, num_heads=2, ffn_dim=8, num_probes=2))
    show("AttentionPooling", pooling(draw(1, 4, 6)), ["one", "two"], ["the", "cat", "sat", "still"])


if __name__ == "__main__":
    main()
