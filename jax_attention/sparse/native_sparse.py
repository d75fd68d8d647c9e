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

import jax.numpy as jnp
from einops import rearrange, reduce, repeat
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.checks import (
    align,
    check_at_least,
    check_divisible,
    check_pairs,
    check_positive,
    check_sequence,
)
from jax_attention.layers import Factory, linear, parameter, relu, sigmoid
from jax_attention.masks import causal_mask
from jax_attention.ops import (
    at_least_float32,
    attend,
    dot_product_attention_weights,
    merge_heads,
    split_heads,
    top_k_mask,
    weighted_values,
)
from jax_attention.outputs import AttentionOutput
from jax_attention.positions.protocol import check_positions, check_scheme, place
from jax_attention.positions.rotary import RotaryEmbedding


def runs(length: int, size: int, stride: int) -> Int[Array, "runs size"]:
    """The positions of each complete run; if there is none, those of one that is not."""
    count = max(1, (length - size) // stride + 1)
    first = stride * jnp.arange(count)  # runs
    return first[:, None] + jnp.arange(size)


def chosen_keys(
    compressed_weights: Float[Array, "batch heads query runs"],
    visible: Bool[Array, "batch heads query key"],
    *,
    num_kv_heads: int,
    compressed_size: int,
    stride: int,
    selected_size: int,
    num_selected: int,
) -> Bool[Array, "batch heads query key"]:
    """Which keys lie in the blocks that matter most to a query and to the heads that share its keys.

    No gradient flows through the choice.

    Args:
        compressed_weights: how much each query attends to each compressed key.
        visible: causal or less; a block of which a group of heads sees nothing is not chosen.
        num_kv_heads, compressed_size, stride, selected_size, num_selected: as in `NativeSparseAttention`.
    """
    query_len, key_len = visible.shape[-2:]
    run = jnp.arange(compressed_weights.shape[-1])[:, None]  # runs 1, in strides
    block = jnp.arange(-(-key_len // selected_size))  # blocks
    per_block, per_run = selected_size // stride, compressed_size // stride
    overlap = jnp.minimum(run + per_run, (block + 1) * per_block) - jnp.maximum(run, block * per_block)
    overlap = jnp.clip(overlap, min=0).astype(compressed_weights.dtype)  # runs blocks
    by_group = reduce(compressed_weights, "b (g r) q n -> b g q n", "sum", g=num_kv_heads)
    importance = jnp.einsum("bgqn,nj->bgqj", by_group, overlap)  # batch kv_heads query blocks

    own = jnp.arange(query_len)[:, None] // selected_size  # query 1
    always = (block == 0) | (block == own) | (block == own - 1)  # query blocks
    importance = jnp.where(always, jnp.inf, importance)
    members = runs(key_len + selected_size - 1, selected_size, selected_size)
    members = jnp.clip(members, max=key_len - 1)  # blocks size
    seen = visible[..., members].any(axis=-1)  # batch heads query blocks
    seen = rearrange(seen, "b (g r) q n -> b g r q n", g=num_kv_heads).any(axis=2)
    blocks = top_k_mask(importance, num_selected, seen)  # batch kv_heads query blocks
    keys = blocks[..., jnp.arange(key_len) // selected_size]  # batch kv_heads query key
    return repeat(keys, "b g q k -> b (g r) q k", r=visible.shape[1] // num_kv_heads)


class BlockCompression(nnx.Module):
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
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.places = parameter(size, head_dim, **factory)
        self.up_proj = linear(size * head_dim, hidden_dim, **factory)
        self.down_proj = linear(hidden_dim, head_dim, **factory)

    def __call__(
        self, x: Float[Array, "batch kv_heads runs size head_dim"]
    ) -> Float[Array, "batch kv_heads runs head_dim"]:
        """Compress each run; its elements are told their places in it."""
        placed = rearrange(x + self.places[...], "b g n size d -> b g n (size d)")
        return self.down_proj(relu(self.up_proj(placed)))


class NativeSparseAttention(nnx.Module):
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
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        check_divisible(num_heads=num_heads, num_kv_heads=num_kv_heads)
        check_positive(compressed_size=compressed_size, selected_size=selected_size, window=window)
        check_divisible(compressed_size=compressed_size, stride=stride)
        check_divisible(selected_size=selected_size, stride=stride)
        check_at_least(3, num_selected=num_selected)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
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

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        need_weights: bool = True,
    ) -> AttentionOutput:
        """Let every position attend to its past in three ways; the rest as in `MultiHeadSelfAttention`."""
        check_sequence("x", x, self.embed_dim)
        check_pairs(x, x, mask, None, self.num_heads)
        check_positions("positions", positions, x, self.position)
        batch, length = x.shape[:2]
        shape = (batch, self.num_heads, length, length)
        visible = causal_mask(length)  # length length
        if mask is not None:
            visible = visible & align("mask", mask, shape)
        visible = jnp.broadcast_to(visible, shape)
        asked = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim

        key = split_heads(self.compressed_k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.compressed_v_proj(x), self.head_dim)
        query, key, _ = place(self.position, asked, key, positions, positions)
        members = runs(length, self.compressed_size, self.stride)  # runs size
        complete = members[:, -1] < length  # runs
        members = jnp.clip(members, max=length - 1)
        key, value = key[:, :, members], value[:, :, members]  # batch kv_heads runs size head_dim
        if self.hidden_dim is None:
            key, value = key.mean(axis=-2), value.mean(axis=-2)  # batch kv_heads runs head_dim
        else:
            key, value = self.key_compression(key), self.value_compression(value)
        past = visible[..., members].all(axis=-1) & complete  # batch heads length runs
        coarse = dot_product_attention_weights(query, key, None, past)  # batch heads length runs
        compressed = weighted_values(coarse, value)  # batch heads length head_dim

        key = split_heads(self.selected_k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.selected_v_proj(x), self.head_dim)
        query, key, _ = place(self.position, asked, key, positions, positions)
        chosen = chosen_keys(
            coarse,
            visible,
            num_kv_heads=self.num_kv_heads,
            compressed_size=self.compressed_size,
            stride=self.stride,
            selected_size=self.selected_size,
            num_selected=self.num_selected,
        )
        selected, fine = attend(query, key, value, None, chosen & visible, need_weights=need_weights)

        key = split_heads(self.window_k_proj(x), self.head_dim)  # batch kv_heads length head_dim
        value = split_heads(self.window_v_proj(x), self.head_dim)
        query, key, _ = place(self.position, asked, key, positions, positions)
        recent, near = attend(
            query, key, value, None, visible, is_causal=True, window=self.window, need_weights=need_weights
        )

        gates = sigmoid(at_least_float32(self.gate_proj(x)))  # batch length 3 * heads
        gates = rearrange(gates, "b n (three h) -> three b h n 1", three=3)
        heads = gates[0] * compressed + gates[1] * selected + gates[2] * recent
        output = self.out_proj(merge_heads(heads.astype(x.dtype)))
        if fine is None or near is None:
            return AttentionOutput(output, None)
        position = jnp.arange(length)  # length
        share = (members[:, :1] <= position) & (position <= members[:, -1:])  # runs length
        spread = jnp.einsum("bhqn,nk->bhqk", coarse, share.astype(coarse.dtype)) / self.compressed_size
        return AttentionOutput(output, gates[0] * spread + gates[1] * fine + gates[2] * near)


def main() -> None:
    """Show two heads that see all runs of two words, four words each, and their own word."""
    from jax_attention.demonstration import draw, fill, show

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
        rngs=nnx.Rngs(0),
    )
    show("NativeSparseAttention", fill(attention)(draw(1, 6, 6)), words, words)


if __name__ == "__main__":
    main()
