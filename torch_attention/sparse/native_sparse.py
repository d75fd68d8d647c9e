r"""Native sparse attention: a coarse view of everything, a fine view of a few blocks, and a window (Yuan et al. 2025).

$$ o_t = g^{cmp}_t\, \mathrm{Att}(q_t, \tilde K^{cmp}, \tilde V^{cmp}) + g^{slc}_t\, \mathrm{Att}(q_t, \tilde K^{slc},
   \tilde V^{slc}) + g^{win}_t\, \mathrm{Att}(q_t, \tilde K^{win}, \tilde V^{win}), \qquad g_t = \sigma(W_g x_t) $$

- Compression: every run of l keys, one each d positions, becomes one key $\varphi(k_{id+1}, \ldots, k_{id+l})$.
- Selection: $p^{cmp}$, the weights of the compressed keys, say how much each block of l' keys matters to a query,
  $p^{slc}_j = \sum_i p^{cmp}_i\, |i \cap j|$, in units of d positions. Heads that share keys add them up and choose
  alike: n blocks, of which three are always the first, the query's own and the one before it.
- Window: the last w keys.

Each branch has keys and values of its own, so that none learns on behalf of another. All see the past alone: a
compressed key is seen once its whole run is past, and so is hidden if the mask hides any of its run.

| symbol | argument          |        | symbol    | argument     |
|--------|-------------------|--------|-----------|--------------|
| l      | `compressed_size` |        | n         | `num_selected` |
| d      | `stride`          |        | w         | `window`     |
| l'     | `selected_size`   |        | $\varphi$ | `hidden_dim` |
"""

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.activations import relu, sigmoid
from torch_attention.arguments import checked
from torch_attention.arrays import first, with_rank
from torch_attention.caches import Cache
from torch_attention.checks import (
    align,
    check_at_least,
    check_divisible,
    check_positive,
    check_sequence,
)
from torch_attention.frame.one_sequence import check_call, recall
from torch_attention.layers import Factory, linear, parameter, precise
from torch_attention.masks import causal_mask
from torch_attention.ops import (
    at_least_float32,
    attend,
    dot_product_attention_weights,
    merge_heads,
    split_heads,
    weighted_values,
)
from torch_attention.outputs import AttentionOutput, CachedOutput, attention_output
from torch_attention.positions.protocol import check_scheme, place
from torch_attention.positions.rotary import RotaryEmbedding
from torch_attention.sparse.blocks import chosen_keys, runs, stride_weights


@checked
class BlockCompression(nn.Module):
    """One key or value in place of a run of them: a network of one hidden layer (Yuan et al. 2025, equation 7).

    Args:
        head_dim: features of a head.
        size: how long a run is.
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
        """Compress each run; its elements are told their places in it."""
        placed = rearrange(x + with_rank(self.places[...], 5), "b g n size d -> b g n (size d)")
        return self.down_proj(relu(self.up_proj(placed)))


class Branches(NamedTuple):
    """What native sparse attention remembers of each token, for each of its branches; keys are not yet placed."""

    compressed_key: Float[Tensor, "batch kv_heads length head_dim"]
    compressed_value: Float[Tensor, "batch kv_heads length head_dim"]
    selected_key: Float[Tensor, "batch kv_heads length head_dim"]
    selected_value: Float[Tensor, "batch kv_heads length head_dim"]
    window_key: Float[Tensor, "batch kv_heads length head_dim"]
    window_value: Float[Tensor, "batch kv_heads length head_dim"]


@checked
class NativeSparseAttention(nn.Module):
    """Causal attention to compressed runs, chosen blocks and a window, each with a gate (Yuan et al. 2025).

    The sizes below are the paper's. `weights` is the sum of the three branches' weights, each times its gate; that of
    a compressed key is shared out evenly over its run. A row sums to at most three.

    Args:
        embed_dim: features of input and output.
        num_heads: heads of queries; must divide `embed_dim`.
        num_kv_heads: heads of keys and values; must divide `num_heads`.
        compressed_size: keys that become one; a multiple of `stride`.
        stride: positions from the start of one run to that of the next.
        selected_size: keys of a block that is chosen as a whole; a multiple of `stride`.
        num_selected: blocks that a query sees, the three that it always sees included.
        window: the last keys that a query sees in any case, its own included.
        hidden_dim: hidden features of the networks that compress; None takes the mean of a run instead.
        position: what turns queries and keys, before they are compressed.
        bias: whether the projections have biases.

    Raises:
        ValueError: sizes that do not divide, sizes below 1, or `num_selected` below 3.
    """

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
        super().__init__()
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        check_divisible(num_heads=num_heads, num_kv_heads=num_kv_heads)
        check_positive(compressed_size=compressed_size, selected_size=selected_size, window=window)
        check_divisible(compressed_size=compressed_size, stride=stride)
        check_divisible(selected_size=selected_size, stride=stride)
        check_at_least(3, num_selected=num_selected)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.num_kv_heads = num_kv_heads
        self.head_dim = embed_dim // num_heads
        self.compressed_size = compressed_size
        self.stride = stride
        self.selected_size = selected_size
        self.num_selected = num_selected
        self.window = window
        self.hidden_dim = hidden_dim
        self.position = position
        kv_dim = num_kv_heads * self.head_dim
        check_scheme(position, num_heads=num_heads, head_dim=self.head_dim)
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
        *,
        positions: Int[Tensor, "..."] | None = None,
        cache: Cache | None = None,
        need_weights: bool = True,
    ) -> AttentionOutput | CachedOutput:
        """Let every position attend to its past in three ways; the rest as in `MultiHeadSelfAttention`."""
        check_sequence("x", x, self.embed_dim)
        check_call(x, mask, positions, None, cache, position=self.position, num_heads=self.num_heads)
        asked = split_heads(precise(self.q_proj, x), self.head_dim)  # batch heads length head_dim
        new = Branches(
            split_heads(
                precise(self.compressed_k_proj, x), self.head_dim
            ),  # batch kv_heads length head_dim each
            split_heads(self.compressed_v_proj(x), self.head_dim),
            split_heads(self.selected_k_proj(x), self.head_dim),
            split_heads(self.selected_v_proj(x), self.head_dim),
            split_heads(self.window_k_proj(x), self.head_dim),
            split_heads(self.window_v_proj(x), self.head_dim),
        )
        seen = recall(cache, new, mask, positions)
        slots = seen.entries.window_key.shape[2]
        shape = (x.shape[0], self.num_heads, x.shape[1], slots)
        visible = causal_mask(x.shape[1], slots, query_offset=seen.offset, device=x.device)  # length slots
        if seen.mask is not None:
            visible = visible[None, None] & align("mask", seen.mask, shape)
        visible = torch.broadcast_to(visible, shape)
        places = seen.query_positions, seen.key_positions

        value = seen.entries.compressed_value  # batch kv_heads slots head_dim
        query, key, _ = place(self.position, asked, seen.entries.compressed_key, *places)
        members = runs(slots, self.compressed_size, self.stride, device=x.device)  # runs size
        complete = members[:, -1] < slots  # runs
        members = torch.clip(members, max=slots - 1)
        key, value = key[:, :, members], value[:, :, members]  # batch kv_heads runs size head_dim
        if self.hidden_dim is None:
            key, value = key.mean(dim=-2), value.mean(dim=-2)  # batch kv_heads runs head_dim
        else:
            key, value = precise(self.key_compression, key), self.value_compression(value)
        past = visible[..., members].all(dim=-1) & with_rank(complete, 4)  # batch heads length runs
        coarse = dot_product_attention_weights(query, key, None, past)  # batch heads length runs
        compressed = weighted_values(coarse, value)  # batch heads length head_dim

        value = seen.entries.selected_value  # batch kv_heads slots head_dim
        asked = asked.to(seen.entries.selected_key.dtype)  # choices are made
        query, key, _ = place(self.position, asked, seen.entries.selected_key, *places)
        chosen = chosen_keys(
            coarse,
            visible,
            num_kv_heads=self.num_kv_heads,
            compressed_size=self.compressed_size,
            stride=self.stride,
            selected_size=self.selected_size,
            num_selected=self.num_selected,
            query_offset=seen.offset,
        )
        selected, fine = attend(query, key, value, None, chosen & visible, need_weights=need_weights)

        value = seen.entries.window_value  # batch kv_heads slots head_dim
        query, key, _ = place(self.position, asked, seen.entries.window_key, *places)
        recent, near = attend(
            query,
            key,
            value,
            None,
            visible,
            is_causal=True,
            window=self.window,
            query_offset=seen.offset,
            need_weights=need_weights,
        )

        gates = sigmoid(at_least_float32(self.gate_proj(x)))  # batch length 3 * heads
        gates = rearrange(gates, "b n (three h) -> three b h n 1", three=3)
        compressed, selected, recent = map(at_least_float32, (compressed, selected, recent))
        heads = gates[0] * compressed + gates[1] * selected + gates[2] * recent
        output = self.out_proj(merge_heads(heads.to(x.dtype)))
        if fine is None or near is None:
            return attention_output(output, None, seen.cache)
        by_stride = stride_weights(coarse, self.compressed_size // self.stride, -(-slots // self.stride))
        spread = (
            first(repeat(by_stride, "b h q n -> b h q (n s)", s=self.stride), slots, -1)
            / self.compressed_size
        )
        mixed = gates[0] * spread + gates[1] * fine + gates[2] * near  # batch heads length slots
        return attention_output(output, mixed, seen.cache)


def main() -> None:
    """Show two heads that see all runs of two words, four words each, and their own word."""
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
