r"""Cross-attention: one sequence looks at another.

$$ Q = X W_Q, \quad K = M W_K, \quad V = M W_V, \qquad
   \mathrm{head} = \mathrm{softmax}\!\left(Q K^\top / \sqrt{d}\right) V $$

| class                     | adds to self-attention                              | source                             |
|---------------------------|-----------------------------------------------------|------------------------------------|
| `CrossAttention`          | keys and values come from a second sequence         | Vaswani et al. 2017, section 3.2.3 |
| `MultiHeadCrossAttention` | several heads, and a map W_O that joins them        | Vaswani et al. 2017, section 3.2.2 |
| `EncoderDecoderAttention` | causal self-attention before, feed-forward after    | Vaswani et al. 2017, figure 1      |

X is `query`, of shape `(batch, query, query_dim)`; M is `memory`, of shape `(batch, key, key_dim)`.
"""

from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.caches import Cache, KeyValue
from torch_attention.checks import check_pairs, check_same_length, check_sequence
from torch_attention.dropout_masks import DecoderKeep
from torch_attention.feed_forward import FeedForward
from torch_attention.frame import CrossAttentionFrame, CrossCall, Scaling, grouped_heads
from torch_attention.frame.one_sequence import check_call
from torch_attention.layers import Dropout, Factory, layer_norm, linear, normalise
from torch_attention.ops import merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedDecoderOutput, DecoderOutput, decoder_output
from torch_attention.self_attention import CausalSelfAttention


@checked
class CrossAttention(CrossAttentionFrame):
    """Scaled dot-product attention with one head from one sequence to another (Vaswani et al. 2017).

    Args:
        query_dim, key_dim: features of the sequence that looks, and of the one that is looked at.
        embed_dim: features of queries, keys, values and output.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        bias: whether the projections have biases.
        dropout: rate, at least 0 and below 1, at which weights are dropped in training.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        embed_dim: int,
        *,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        super().__init__(query_dim, key_dim, None, embed_dim, **options)
        factory = Factory(device=device, dtype=dtype)
        self.q_proj = linear(query_dim, embed_dim, bias=bias, **factory)
        self.k_proj = linear(key_dim, embed_dim, bias=bias, **factory)
        self.v_proj = linear(key_dim, embed_dim, bias=bias, **factory)

    def forward(
        self,
        query: Float[Tensor, "batch query query_dim"],
        memory: Float[Tensor, "batch key key_dim"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[CrossCall],
    ) -> AttentionOutput:
        """Let every position of `query` attend to the positions of `memory` it may see.

        Args:
            query, memory: the sequence that looks, and the one that is looked at.
            mask: True where the query attends to the key.
            query_positions, key_positions: positions of their elements, for `position`; None counts from 0.
            query_lengths, key_lengths: how many elements of each sequence are there, `(batch,)`; the rest is padding.
            query_segments, key_segments: number of the text that each element of a packed row belongs to,
                `(batch, query)` and `(batch, key)`; a query sees keys of its own text.
            need_weights: whether to return the weights; without them the fastest implementation runs.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.
            implementation: which implementation makes the output, without weights; None for the fastest.

        Returns:
            Output `(batch, query, embed_dim)` and weights `(batch, query, key)`.

        Raises:
            TypeError, ValueError: a mask that is not boolean; shapes that do not fit.
        """
        self.check(query, memory, mask, **call)
        query = self.q_proj(query)[:, None]  # batch 1 query embed
        key = self.k_proj(memory)[:, None]  # batch 1 key embed
        value = self.v_proj(memory)[:, None]  # batch 1 key embed
        heads, weights = self.see(query, KeyValue(key, value), mask, **call).attend()
        return AttentionOutput(heads[:, 0], None if weights is None else weights[:, 0])


@checked
class MultiHeadCrossAttention(CrossAttentionFrame):
    """Several heads from one sequence to another, joined by a linear map (Vaswani et al. 2017).

    Args:
        query_dim, key_dim, position, bias, dropout: as in `CrossAttention`.
        embed_dim: features of queries, keys and values; `num_heads` must divide it, for its heads share them.
        head_dim: features of a head, where these are not `embed_dim / num_heads`.
        value_dim: features of what is read, where that is not `memory`; `key_dim` if None.
        output_dim: features of the output; `embed_dim` if None.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
    """

    head_dim: int

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        value_dim: int | None = None,
        output_dim: int | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **options: Unpack[Scaling],
    ):
        heads = grouped_heads(embed_dim, num_heads, None, head_dim)
        super().__init__(query_dim, key_dim, num_heads, heads.head_dim, **options)
        factory = Factory(device=device, dtype=dtype)
        self.value_dim = value_dim or key_dim
        features = num_heads * heads.head_dim
        self.q_proj = linear(query_dim, features, bias=bias, **factory)
        self.k_proj = linear(key_dim, features, bias=bias, **factory)
        self.v_proj = linear(self.value_dim, features, bias=bias, **factory)
        self.out_proj = linear(features, output_dim or embed_dim, bias=bias, **factory)

    def forward(
        self,
        query: Float[Tensor, "batch query query_dim"],
        memory: Float[Tensor, "batch key key_dim"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        value: Float[Tensor, "batch key value_dim"] | None = None,
        **call: Unpack[CrossCall],
    ) -> AttentionOutput:
        """As `CrossAttention`, with weights for each head, and `value` read in place of `memory` if it is given."""
        value = memory if value is None else value
        self.check(query, memory, mask, **call)
        check_sequence("value", value, self.value_dim, batch=query.shape[0])
        check_same_length(memory=memory, value=value)
        query = split_heads(self.q_proj(query), self.head_dim)  # batch heads query head_dim
        key = split_heads(self.k_proj(memory), self.head_dim)  # batch heads key head_dim
        value = split_heads(self.v_proj(value), self.head_dim)  # batch heads key head_dim
        heads, weights = self.see(query, KeyValue(key, value), mask, **call).attend()
        return AttentionOutput(self.out_proj(merge_heads(heads)), weights)


@checked
class EncoderDecoderAttention(nn.Module):
    """A Transformer decoder block: it looks back at itself, then across at the encoder (Vaswani et al. 2017).

    Three sublayers f, each with a residual: x = norm(x + f(x)), or with `norm_first` x = x + f(norm(x)), which
    trains without warm-up (Xiong et al. 2020).

    Args:
        embed_dim, num_heads: features of both sequences, and heads of both attentions, which must divide them.
        ffn_dim: features inside the feed-forward network; `4 * embed_dim` if None.
        norm_first: whether to normalise before each sublayer instead of after it.
        activation: of the feed-forward network: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or `"silu"`.
        norm_eps: added to the variance in each normalisation.
        bias: whether the linear maps have biases.
        dropout: rate at which weights, inner features and the result of each sublayer are dropped in training.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, or an unknown activation.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        ffn_dim: int | None = None,
        *,
        norm_first: bool = False,
        activation: str = "relu",
        norm_eps: float = 1e-5,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim, self.num_heads, self.norm_first = embed_dim, num_heads, norm_first
        shared: dict[str, Any] = {"bias": bias, "dropout": dropout, **factory}
        self.self_attention = CausalSelfAttention(embed_dim, num_heads, **shared)
        self.cross_attention = MultiHeadCrossAttention(embed_dim, embed_dim, embed_dim, num_heads, **shared)
        self.ffn = FeedForward(embed_dim, ffn_dim or 4 * embed_dim, activation=activation, **shared)
        norms = (layer_norm(embed_dim, eps=norm_eps, **factory) for _ in range(3))
        self.self_norm, self.cross_norm, self.ffn_norm = norms
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "batch query embed"],
        memory: Float[Tensor, "batch key embed"],
        self_mask: Bool[Tensor, "..."] | None = None,
        memory_mask: Bool[Tensor, "..."] | None = None,
        *,
        cache: Cache | None = None,
        need_weights: bool = True,
        dropout_keep: DecoderKeep | None = None,
    ) -> DecoderOutput | CachedDecoderOutput:
        """Decode one block.

        Args:
            x, memory: the sequence being written, and the encoder's output.
            self_mask: True where a position of `x` attends to another; what comes later is hidden in any case.
            cache: KV cache with the earlier positions of `x`, as in `CausalSelfAttention`.
            memory_mask: True where a position of `x` attends to one of `memory`.
            need_weights, dropout_keep: as in `CrossAttention`; a dropout mask for each dropout layer.

        Returns:
            Output `(batch, query, embed_dim)`, self-attention weights `(batch, heads, query, query)` and
            cross-attention weights `(batch, heads, query, key)`; errors as in `CrossAttention`.
        """
        keep = dropout_keep or DecoderKeep()
        check_sequence("x", x, self.embed_dim)
        check_sequence("memory", memory, self.embed_dim, batch=x.shape[0])
        given = x, self_mask, None, keep.self_weights, cache
        check_call(*given, position=None, num_heads=self.num_heads, name="self_mask")
        check_pairs(x, memory, memory_mask, keep.cross_weights, self.num_heads, name="memory_mask")
        before = self._norm(True, self.self_norm, x)
        read = self.self_attention(
            before, self_mask, cache=cache, need_weights=need_weights, dropout_keep=keep.self_weights
        )
        x = self._norm(False, self.self_norm, x + self.dropout(read.output, keep.self_output))
        before = self._norm(True, self.cross_norm, x)
        attended, cross_weights = self.cross_attention(
            before, memory, memory_mask, need_weights=need_weights, dropout_keep=keep.cross_weights
        )
        x = self._norm(False, self.cross_norm, x + self.dropout(attended, keep.cross_output))
        transformed = self.ffn(self._norm(True, self.ffn_norm, x), dropout_keep=keep.ffn_hidden)
        x = self._norm(False, self.ffn_norm, x + self.dropout(transformed, keep.ffn_output))
        return decoder_output(x, read, cross_weights)

    def _norm(self, first: bool, norm: nn.Module, x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        return normalise(norm, x) if first == self.norm_first else x


def main() -> None:
    """Show a sentence being translated look at its source, and a decoder block look at both."""
    from torch_attention.demonstration import draw, fill, show

    source, target = ["le", "chat", "noir"], ["the", "black"]
    query, memory = draw(1, 2, 6), draw(1, 3, 6, seed=1)
    show("CrossAttention", fill(CrossAttention(6, 6, 4))(query, memory), target, source)
    output, *_, itself, across = fill(EncoderDecoderAttention(6, 2, 8))(query, memory)
    show("EncoderDecoderAttention, at itself", AttentionOutput(output, itself), target, target)
    show("EncoderDecoderAttention, at the source", AttentionOutput(output, across), target, source)


if __name__ == "__main__":
    main()
