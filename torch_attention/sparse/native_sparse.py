r"""Native sparse attention: compressed keys, selected blocks and a sliding window (Yuan et al. 2025).

$$ o_t = g^{cmp}_t\, \mathrm{Att}(q_t, \tilde K^{cmp}, \tilde V^{cmp}) + g^{slc}_t\, \mathrm{Att}(q_t, \tilde K^{slc},
   \tilde V^{slc}) + g^{win}_t\, \mathrm{Att}(q_t, \tilde K^{win}, \tilde V^{win}), \qquad g_t = \sigma(W_g x_t) $$

- Compression: each run of l keys, with one run every d positions, becomes one key
  $\varphi(k_{id+1}, \ldots, k_{id+l})$.
- Selection: the compressed weights $p^{cmp}$ give the importance of each block of l' keys,
  $p^{slc}_j = \sum_i p^{cmp}_i\, |i \cap j|$, in units of d positions. Heads that share keys add up their importance
  and select the same n blocks. Three of them are always the first block, the query's own and the one before it.
- Window: the last w keys.

Each branch has its own keys and values, so that the branches do not interfere in training. All branches are causal: a
compressed key is visible once its whole run is in the past, and it is masked if any key of its run is masked.

| symbol | argument          |        | symbol    | argument     |
|--------|-------------------|--------|-----------|--------------|
| l      | `compressed_size` |        | n         | `num_selected` |
| d      | `stride`          |        | w         | `window`     |
| l'     | `selected_size`   |        | $\varphi$ | `hidden_dim` |
"""

from typing import NamedTuple, Unpack

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.activations import relu, sigmoid
from torch_attention.arguments import checked
from torch_attention.arrays import first, with_rank
from torch_attention.caches import KeyValue
from torch_attention.checks import check_at_least, check_divisible, check_positive
from torch_attention.frame import Seen, SelfAttentionFrame, UndroppedCall, grouped_heads
from torch_attention.layers import Factory, linear, parameter, precise
from torch_attention.ops import (
    at_least_float32,
    dot_product_attention_weights,
    merge_heads,
    split_heads,
    weighted_values,
)
from torch_attention.outputs import AttentionOutput, CachedOutput
from torch_attention.positions.rotary import RotaryEmbedding
from torch_attention.sparse.blocks import chosen_keys, runs, stride_weights


@checked
class BlockCompression(nn.Module):
    """Compress a run of keys or values into one, with an MLP of one hidden layer (Yuan et al. 2025, equation 7).

    Args:
        head_dim: features of a head.
        size: number of elements in a run.
        hidden_dim: features of the hidden layer.
    """

    def __init__(
        self,
        head_dim: int,
        size: int,
        hidden_dim: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.places = parameter(size, head_dim, **factory)
        self.up_proj = linear(size * head_dim, hidden_dim, **factory)
        self.down_proj = linear(hidden_dim, head_dim, **factory)

    def forward(
        self, x: Float[Tensor, "batch kv_heads runs size head_dim"]
    ) -> Float[Tensor, "batch kv_heads runs head_dim"]:
        """Compress each run, after adding learned positions within the run."""
        placed = rearrange(x + with_rank(self.places[...], 5), "b g n size d -> b g n (size d)")
        return self.down_proj(relu(self.up_proj(placed)))


class Branches(NamedTuple):
    """Cache entries of native sparse attention for each branch; keys before positional encoding."""

    compressed_key: Float[Tensor, "batch kv_heads length head_dim"]
    compressed_value: Float[Tensor, "batch kv_heads length head_dim"]
    selected_key: Float[Tensor, "batch kv_heads length head_dim"]
    selected_value: Float[Tensor, "batch kv_heads length head_dim"]
    window_key: Float[Tensor, "batch kv_heads length head_dim"]
    window_value: Float[Tensor, "batch kv_heads length head_dim"]


@checked
class NativeSparseAttention(SelfAttentionFrame):
    """Causal attention to compressed runs, selected blocks and a window, each with a gate (Yuan et al. 2025).

    The default sizes are the paper's. `weights` is the sum of the gated weights of the three branches; the weight of a
    compressed key is spread evenly over its run. A row sums to at most three.

    Args:
        embed_dim: features of input and output.
        num_heads: number of query heads; must divide `embed_dim`.
        num_kv_heads: number of key and value heads; must divide `num_heads`.
        compressed_size: number of keys in a compressed run; a multiple of `stride`.
        stride: distance between the starts of two runs.
        selected_size: number of keys in a selectable block; a multiple of `stride`.
        num_selected: number of selected blocks, including the three that are always selected.
        window: number of visible recent keys, including the query's own.
        hidden_dim: hidden features of the compression networks; None averages each run instead.
        position: rotary embedding of queries and keys, applied before the compression; None for none.
        bias: whether the projections have biases.

    Raises:
        ValueError: sizes that do not divide, sizes below 1, or `num_selected` below 3.
    """

    fixed_positions = "its blocks are cut at fixed positions"

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        num_kv_heads: int,
        *,
        compressed_size: int = 32,
        stride: int = 16,
        selected_size: int = 64,
        num_selected: int = 16,
        window: int = 512,
        hidden_dim: int | None = None,
        position: RotaryEmbedding | None = None,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        heads = grouped_heads(embed_dim, num_heads, num_kv_heads)
        check_positive(compressed_size=compressed_size, selected_size=selected_size, window=window)
        check_divisible(compressed_size=compressed_size, stride=stride)
        check_divisible(selected_size=selected_size, stride=stride)
        check_at_least(3, num_selected=num_selected)
        super().__init__(embed_dim, num_heads, heads.head_dim, is_causal=True, position=position)
        factory = Factory(device=device, dtype=dtype)
        self.num_kv_heads = num_kv_heads
        self.compressed_size = compressed_size
        self.stride = stride
        self.selected_size = selected_size
        self.num_selected = num_selected
        self.recent_window = window
        self.hidden_dim = hidden_dim
        kv_dim = num_kv_heads * self.head_dim
        self.q_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        self.compressed_k_proj = linear(embed_dim, kv_dim, bias=bias, **factory)
        self.compressed_v_proj = linear(embed_dim, kv_dim, bias=bias, **factory)
        self.selected_k_proj = linear(embed_dim, kv_dim, bias=bias, **factory)
        self.selected_v_proj = linear(embed_dim, kv_dim, bias=bias, **factory)
        self.window_k_proj = linear(embed_dim, kv_dim, bias=bias, **factory)
        self.window_v_proj = linear(embed_dim, kv_dim, bias=bias, **factory)
        self.gate_proj = linear(embed_dim, 3 * num_heads, bias=bias, **factory)
        self.out_proj = linear(embed_dim, embed_dim, bias=bias, **factory)
        if hidden_dim is not None:
            self.key_compression = BlockCompression(self.head_dim, compressed_size, hidden_dim, **factory)
            self.value_compression = BlockCompression(self.head_dim, compressed_size, hidden_dim, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[UndroppedCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply causal self-attention in three branches.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; combined with the causal mask. None for no mask.
            cache: KV cache of the earlier positions; None without one.
            implementation: implementation of the selected blocks and the window; None for the fastest. The compressed
                branch always computes its weights, because they select the blocks.
            positions, lengths, segments, need_weights: as in `MultiHeadSelfAttention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.check(x, mask, **call)
        query = split_heads(precise(self.q_proj, x), self.head_dim)  # batch heads length head_dim
        new = Branches(  # batch kv_heads length head_dim each
            split_heads(precise(self.compressed_k_proj, x), self.head_dim),
            split_heads(self.compressed_v_proj(x), self.head_dim),
            split_heads(self.selected_k_proj(x), self.head_dim),
            split_heads(self.selected_v_proj(x), self.head_dim),
            split_heads(self.window_k_proj(x), self.head_dim),
            split_heads(self.window_v_proj(x), self.head_dim),
        )
        found = self.recall(new, mask, **call)
        held = found.entries

        def branch(key: Float[Tensor, "..."], value: Float[Tensor, "..."]) -> Seen:
            """Cached keys and values of a branch, as seen by the queries."""
            entries = KeyValue(key, value)
            return self.place(found._replace(entries=entries), query.to(key.dtype), key, **call)

        seen = branch(held.compressed_key, held.compressed_value)
        slots = seen.key.shape[2]
        visible = seen.visible()
        assert visible is not None  # causal attention always has a mask
        visible = torch.broadcast_to(visible, (*seen.query.shape[:3], slots))
        members = runs(slots, self.compressed_size, self.stride, device=x.device)  # runs size
        complete = members[:, -1] < slots  # runs
        members = torch.clip(members, max=slots - 1)
        key, value = seen.key[:, :, members], seen.value[:, :, members]  # batch kv_heads runs size head_dim
        if self.hidden_dim is None:
            key, value = key.mean(dim=-2), value.mean(dim=-2)  # batch kv_heads runs head_dim
        else:
            key, value = precise(self.key_compression, key), self.value_compression(value)
        past = visible[..., members].all(dim=-1) & with_rank(complete, 4)  # batch heads length runs
        coarse = dot_product_attention_weights(seen.query, key, None, past)  # batch heads length runs
        compressed = weighted_values(coarse, value)  # batch heads length head_dim

        chosen = chosen_keys(
            coarse,
            visible,
            num_kv_heads=self.num_kv_heads,
            compressed_size=self.compressed_size,
            stride=self.stride,
            selected_size=self.selected_size,
            num_selected=self.num_selected,
            query_offset=found.offset,
        )
        selected, fine = branch(held.selected_key, held.selected_value).with_mask(chosen).attend()
        recent, near = branch(held.window_key, held.window_value).with_window(self.recent_window).attend()

        gates = sigmoid(at_least_float32(self.gate_proj(x)))  # batch length 3 * heads
        gates = rearrange(gates, "b n (three h) -> three b h n 1", three=3)
        compressed, selected, recent = map(at_least_float32, (compressed, selected, recent))
        heads = gates[0] * compressed + gates[1] * selected + gates[2] * recent
        output = self.out_proj(merge_heads(heads.to(x.dtype)))
        if fine is None or near is None:
            return seen.answer(output, None)
        by_stride = stride_weights(coarse, self.compressed_size // self.stride, -(-slots // self.stride))
        by_slot = repeat(by_stride, "b h q n -> b h q (n s)", s=self.stride)
        spread = first(by_slot, slots, -1) / self.compressed_size  # batch heads length slots
        mixed = gates[0] * spread + gates[1] * fine + gates[2] * near  # batch heads length slots
        return seen.answer(output, mixed)


def main() -> None:
    """Show two heads that attend to all runs of two words, four selected words and the query's own word."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "old", "cat", "sat", "very", "still"]
    attention = NativeSparseAttention(
        embed_dim=6,
        num_heads=2,
        num_kv_heads=1,
        compressed_size=2,
        stride=1,
        selected_size=1,
        num_selected=4,
        window=1,
    )
    show("NativeSparseAttention", fill(attention)(draw(1, 6, 6)), words, words)


if __name__ == "__main__":
    main()
