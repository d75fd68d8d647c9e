r"""Cross-attention: the positions of one sequence attend to the positions of another.

$$ Q = X W_Q, \quad K = M W_K, \quad V = M W_V, \qquad
   \mathrm{head} = \mathrm{softmax}\!\left(Q K^\top / \sqrt{d}\right) V $$

| class                     | adds to self-attention                              | source                             |
|---------------------------|-----------------------------------------------------|------------------------------------|
| `CrossAttention`          | keys and values come from a second sequence         | Vaswani et al. 2017, section 3.2.3 |
| `MultiHeadCrossAttention` | several heads and an output projection W_O          | Vaswani et al. 2017, section 3.2.2 |
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
from torch_attention.layers import Dropout, Factory, linear
from torch_attention.norms import layer_norm, normalise
from torch_attention.ops import merge_heads, split_heads
from torch_attention.outputs import AttentionOutput, CachedDecoderOutput, DecoderOutput, decoder_output
from torch_attention.self_attention import CausalSelfAttention


@checked
class CrossAttention(CrossAttentionFrame):
    """Single-head scaled dot-product attention from one sequence to another (Vaswani et al. 2017).

    Args:
        query_dim, key_dim: features of the query sequence and of the memory.
        embed_dim: features of queries, keys, values and output.
        position: positional-encoding module (e.g. `RotaryEmbedding`, `ALiBi`); None for none.
        bias: whether the projections have biases.
        dropout: dropout rate of the attention weights in training, in [0, 1).
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
        """Attend from each position of `query` to the positions of `memory`.

        Args:
            query: query sequence, `(batch, query, query_dim)`.
            memory: sequence that keys and values are projected from, `(batch, key, key_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            query_positions, key_positions: positions of the tokens for the positional encoding; None counts from 0.
            query_lengths, key_lengths: number of real tokens in each sequence, `(batch,)`; the rest is padding.
            query_segments, key_segments: segment number of each token of packed sequences, `(batch, query)` and
                `(batch, key)`; a query attends only to keys of its segment.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.
            implementation: name of the implementation for calls without weights; None for the fastest.

        Returns:
            Output `(batch, query, embed_dim)` and attention weights `(batch, query, key)`.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: shapes do not match.
        """
        self.check(query, memory, mask, **call)
        query = self.q_proj(query)[:, None]  # batch 1 query embed
        key = self.k_proj(memory)[:, None]  # batch 1 key embed
        value = self.v_proj(memory)[:, None]  # batch 1 key embed
        heads, weights = self.see(query, KeyValue(key, value), mask, **call).attend()
        return AttentionOutput(heads[:, 0], None if weights is None else weights[:, 0])


@checked
class MultiHeadCrossAttention(CrossAttentionFrame):
    """Multi-head attention from one sequence to another, with an output projection (Vaswani et al. 2017).

    Args:
        query_dim, key_dim, position, bias, dropout: as in `CrossAttention`.
        embed_dim: total features of the heads; `num_heads` must divide it unless `head_dim` is given.
        num_heads: number of heads.
        head_dim: features of a head; `embed_dim / num_heads` if None.
        value_dim: features of the `value` input; `key_dim` if None.
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
        """Attend from each position of `query` to the positions of `memory`, with several heads.

        Args:
            query, memory, mask: as in `CrossAttention`, as are the other keyword arguments.
            value: sequence that the values are projected from, `(batch, key, value_dim)`; `memory` if None.

        Returns:
            Output `(batch, query, output_dim)` and attention weights `(batch, heads, query, key)`.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: shapes do not match.
        """
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
    """Transformer decoder block: causal self-attention, cross-attention, feed-forward (Vaswani et al. 2017).

    Each of the three sublayers f has a residual connection: x = norm(x + f(x)) by default (post-norm), or
    x = x + f(norm(x)) with `norm_first` (pre-norm), which trains without warm-up (Xiong et al. 2020).

    Args:
        embed_dim: features of both sequences.
        num_heads: heads of both attention layers; must divide `embed_dim`.
        ffn_dim: hidden features of the feed-forward network; `4 * embed_dim` if None.
        norm_first: whether to normalise before each sublayer instead of after it.
        activation: activation of the feed-forward network: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"`
            or `"silu"`.
        norm_eps: epsilon added to the variance in each normalisation.
        bias: whether the linear maps have biases.
        dropout: dropout rate of attention weights, hidden features and sublayer outputs in training.

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
        """Apply the decoder block.

        Args:
            x: decoder sequence, `(batch, query, embed_dim)`; with a cache, only the new tokens.
            memory: output of the encoder, `(batch, key, embed_dim)`.
            self_mask: boolean mask of the self-attention, True where a position of `x` may attend to another one of
                `x`; later positions stay masked in any case. None for no further mask.
            memory_mask: boolean mask of the cross-attention, True where a position of `x` may attend to one of
                `memory`; None for no mask.
            cache: KV cache of the earlier positions of `x`; None without one.
            need_weights: whether to return the attention weights; without them a fused kernel may run.
            dropout_keep: boolean dropout masks, one per dropout layer, True keeps; used instead of sampling them.

        Returns:
            Output `(batch, query, embed_dim)`, self-attention weights `(batch, heads, query, query)` and
            cross-attention weights `(batch, heads, query, key)`; with a cache, a `CachedDecoderOutput`.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: shapes do not match, or the cache does not match the input.
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
    """Print the weights of cross-attention, and both kinds of weights of a decoder block."""
    from torch_attention.demonstration import draw, fill, show

    source, target = ["le", "chat", "noir"], ["the", "black"]
    query, memory = draw(1, 2, 6), draw(1, 3, 6, seed=1)
    show("CrossAttention", fill(CrossAttention(6, 6, 4))(query, memory), target, source)
    output, *_, itself, across = fill(EncoderDecoderAttention(6, 2, 8))(query, memory)
    show("EncoderDecoderAttention, at itself", AttentionOutput(output, itself), target, target)
    show("EncoderDecoderAttention, at the source", AttentionOutput(output, across), target, source)


if __name__ == "__main__":
    main()
