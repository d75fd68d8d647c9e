r"""Retention: linear attention with a fixed decay rate per head (Sun et al. 2023).

$$ S_n = \gamma_h R_{-1} S_{n-1} + k_n v_n^\top, \quad o_n = S_n^\top q_n / \sqrt{d}, \qquad
   \gamma_h = 1 - 2^{-5-h}, \qquad y = \left(\mathrm{SiLU}(x W_G) \odot \mathrm{RMS}(o)\right) W_O $$

Three changes from `LinearAttention`. There is no φ and no denominator; instead, each head's output is divided by its
root mean square and gated. Before each token, the state decays by γ_h, more slowly for larger h. The state also rotates
back by the rotary angles θ, so that products depend on relative positions. Rotating the state step by step equals
rotating queries and keys by their positions. The returned state is relative to the last token, so a later call needs no
position.

There are three equivalent forms: recurrent; chunked; and parallel, q_n·(γ R_{-1})^{n-m} k_m for all pairs n, m.

| symbol   | argument             | shape                                  |
|----------|----------------------|----------------------------------------|
| S        | `state.memory`       | `(batch, heads, head_dim, value_dim)`  |
| log γ    | `log_decay`          | `(batch, heads, length)`, at most 0    |
| θ        | `frequencies`        | one per pair of features               |
| d        | `head_dim`           |                                        |
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.activations import silu
from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.checks import check_above_zero, check_divisible, check_positive
from jax_attention.layers import Factory, linear
from jax_attention.linear.states import MemoryState, check_read, first_memory, hide, scan_faded_chunks
from jax_attention.ops import (
    at_least_float32,
    decay_matrix,
    join_chunks,
    merge_heads,
    scan,
    split_chunks,
    split_heads,
)
from jax_attention.outputs import AttentionOutput, RecurrentOutput
from jax_attention.positions.rotary import rotate


@checked
def retention_decays(num_heads: int) -> tuple[float, ...]:
    """Decay factor γ_h = 1 - 2^(-5-h) of the state of head h before each token."""
    return tuple(1.0 - 2.0 ** (-5 - h) for h in range(num_heads))


@checked
def retention_frequencies(head_dim: int, base: float = 10000.0) -> tuple[float, ...]:
    """Frequencies θ_i = base^(-i / (d/2 - 1)) in radians per token: 1 for the first pair, 1 / base for the last.

    Raises:
        ValueError: `head_dim` is odd.
    """
    check_divisible(head_dim=head_dim, pair=2)
    last = max(head_dim // 2 - 1, 1)
    return tuple(base ** (-i / last) for i in range(head_dim // 2))


@checked
def recurrent_retention(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    value: Float[Array, "batch heads length value_dim"],
    log_decay: Float[Array, "batch heads length"],
    *,
    state: Float[Array, "batch heads key_dim value_dim"] | None = None,
) -> tuple[Float[Array, "batch heads length value_dim"], Float[Array, "batch heads key_dim value_dim"]]:
    """Recurrent form of retention, one token per step.

    Args:
        query, key: queries and keys, `(batch, heads, length, key_dim)`, rotated if positions matter.
        value: values, `(batch, heads, length, value_dim)`.
        log_decay: logarithm of the decay factor of the state before each token, at most 0, `(batch, heads, length)`.
        state: recurrent state of the earlier tokens; None for an empty one.

    Returns:
        Output `(batch, heads, length, value_dim)`, in the dtype of `value`, and the state after the last token.
    """

    def step(memory: Array, token: tuple[Array, ...]) -> tuple[Array, Array]:
        query, key, value, log_decay = token  # batch heads key_dim, or value_dim, or nothing
        memory = memory * jnp.exp(log_decay)[..., None, None]  # batch heads key_dim value_dim
        memory = memory + einsum("bhd,bhv->bhdv", key, value)
        return memory, einsum("bhd,bhdv->bhv", query, memory)

    arrays = (query, key, value, log_decay)
    tokens = (rearrange(at_least_float32(x), "b h l ... -> l b h ...") for x in arrays)
    memory, output = scan(step, first_memory(key, value, state), tuple(tokens))
    return rearrange(output, "l b h v -> b h l v").astype(value.dtype), memory


@checked
def chunked_retention(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    value: Float[Array, "batch heads length value_dim"],
    log_decay: Float[Array, "batch heads length"],
    *,
    state: Float[Array, "batch heads key_dim value_dim"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Array, "batch heads length value_dim"], Float[Array, "batch heads key_dim value_dim"]]:
    """Chunked form of `recurrent_retention`, one chunk per step (section 2.1, "chunkwise recurrent").

    Args:
        query, key, value, log_decay, state: as in `recurrent_retention`.
        chunk_size: number of tokens in a chunk.
    """
    q, k, v, g = (split_chunks(at_least_float32(x), chunk_size) for x in (query, key, value, log_decay))
    between = decay_matrix(g)  # chunks batch heads size size
    since_start = jnp.exp(jnp.cumsum(g, axis=-1))[..., None]  # chunks batch heads size 1
    memory, output = scan_faded_chunks(
        first_memory(key, value, state),
        read=since_start * q,
        written=between[..., -1, :, None] * k,
        scores=between * einsum("...qd,...kd->...qk", q, k),
        value=v,
        decay=since_start[..., -1:, :],
        length=query.shape[2],
    )
    return join_chunks(output, query.shape[2]).astype(value.dtype), memory


@checked
def parallel_retention(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    value: Float[Array, "batch heads length value_dim"],
    log_decay: Float[Array, "batch heads length"],
) -> Float[Array, "batch heads length value_dim"]:
    """Parallel form of `recurrent_retention`, without an earlier state (equation 5)."""
    weights = retention_weights(query, key, log_decay)  # batch heads length length
    return einsum("bhqk,bhkv->bhqv", weights, at_least_float32(value)).astype(value.dtype)


@checked
def retention_weights(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    log_decay: Float[Array, "batch heads length"],
) -> Float[Array, "batch heads length length"]:
    """Attention weights Q Kᵀ ⊙ D with D_nm = γ^(n-m) for m <= n, in at least float32.

    Rows need not sum to 1, and a weight may be negative.
    """
    scores = einsum("bhqd,bhkd->bhqk", at_least_float32(query), at_least_float32(key))
    return jnp.tril(decay_matrix(at_least_float32(log_decay)) * scores)  # batch heads length length


@checked
def over_root_mean_square(x: Float[Array, "... dim"], eps: float) -> Float[Array, "... dim"]:
    """Divide by the root mean square, x / √(mean x² + ε), in at least float32."""
    x = at_least_float32(x)
    return x / jnp.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)


@checked
class MultiScaleRetention(nnx.Module):
    """Multi-head linear attention with a fixed decay rate per head (Sun et al. 2023).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads.
        head_dim: query and key features of a head; None for `embed_dim / num_heads`.
        value_dim: value features of a head; None for `2 head_dim`.
        frequencies: rotation of each pair of features in radians per token; None for `retention_frequencies`.
        interleaved: whether features 2i and 2i + 1 make a pair, instead of i and i + d/2.
        chunk_size: number of tokens in a chunk.
        eps: constant added to the mean square in the output norm.
        bias: whether the projections have biases.

    Raises:
        ValueError: sizes that do not divide or are below 1, an `eps` not above 0, or a wrong number of frequencies.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        value_dim: int | None = None,
        frequencies: Sequence[float] | None = None,
        interleaved: bool = True,
        chunk_size: int = 64,
        eps: float = 1e-6,
        bias: bool = False,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(chunk_size=chunk_size)
        check_above_zero(eps=eps)
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.value_dim = 2 * self.head_dim if value_dim is None else value_dim
        known = retention_frequencies(self.head_dim)
        self.frequencies = known if frequencies is None else tuple(frequencies)
        if len(self.frequencies) != len(known):
            raise ValueError(
                f"frequencies must be one per pair, {len(known)} for head_dim={self.head_dim}, "
                f"got {len(self.frequencies)}"
            )
        self.log_decays = tuple(math.log(decay) for decay in retention_decays(num_heads))
        self.interleaved, self.chunk_size, self.eps = interleaved, chunk_size, eps
        self.q_proj = linear(embed_dim, num_heads * self.head_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, num_heads * self.head_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, num_heads * self.value_dim, bias=bias, **factory)
        self.gate_proj = linear(embed_dim, num_heads * self.value_dim, bias=bias, **factory)
        self.out_proj = linear(num_heads * self.value_dim, embed_dim, bias=bias, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        state: MemoryState | None = None,
        need_weights: bool = False,
    ) -> RecurrentOutput:
        """Apply causal retention.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: `(batch, 1, 1, length)`, False for padding, which leaves the state unchanged; None for no mask.
            state: recurrent state of the earlier tokens; None for an empty one.
            need_weights: whether to return the attention weights, before the norm.

        Returns:
            Output `(batch, length, embed_dim)`, the state after the last token, and weights
            `(batch, heads, length, length)` or None.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_read(x, self.embed_dim, mask, state, (self.num_heads, self.head_dim, self.value_dim))
        wide = at_least_float32(x).dtype
        there = jnp.ones(x.shape[:2], dtype=wide)  # batch length
        there = there if mask is None else there * mask[:, 0, 0].astype(wide)
        log_decay = jnp.asarray(self.log_decays, dtype=wide)  # heads
        log_decay = there[:, None] * log_decay[None, :, None]  # batch heads length
        frequencies = jnp.asarray(self.frequencies, dtype=wide)  # pairs
        angles = jnp.cumsum(there, axis=-1)[..., None] * frequencies[None, None]  # batch length pairs

        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        query = at_least_float32(query) * self.head_dim**-0.5
        key = at_least_float32(split_heads(self.k_proj(x), self.head_dim))  # batch heads length head_dim
        query = rotate(query, angles[:, None], interleaved=self.interleaved)
        key = hide(rotate(key, angles[:, None], interleaved=self.interleaved), mask)
        value = at_least_float32(split_heads(self.v_proj(x), self.value_dim))  # batch heads length value_dim
        memory = None if state is None else state.memory
        if x.shape[1] == 1:
            heads, memory = recurrent_retention(query, key, value, log_decay, state=memory)
        else:
            heads, memory = chunked_retention(
                query, key, value, log_decay, state=memory, chunk_size=self.chunk_size
            )
        weights = retention_weights(query, key, log_decay) if need_weights else None
        gate = silu(self.gate_proj(x))  # batch length heads·value_dim
        heads = gate * merge_heads(over_root_mean_square(heads, self.eps).astype(x.dtype))
        return RecurrentOutput(self.out_proj(heads), MemoryState(self._seen_by_last(memory, angles)), weights)

    def _seen_by_last(
        self,
        memory: Float[Array, "batch heads head_dim value_dim"],
        angles: Float[Array, "batch length pairs"],
    ) -> Float[Array, "batch heads head_dim value_dim"]:
        """Rotate the state back by the total angle of this call's tokens."""
        rows = memory.swapaxes(-1, -2)  # batch heads value_dim head_dim
        start = jnp.zeros((angles.shape[0], 1, angles.shape[2]), dtype=angles.dtype)
        last = jnp.concatenate([start, angles], axis=1)[:, -1:]  # batch 1 pairs
        back = jnp.broadcast_to(-last[:, None], (*rows.shape[:1], 1, rows.shape[2], angles.shape[2]))
        return rotate(rows, back, interleaved=self.interleaved).swapaxes(-1, -2)


def main() -> None:
    """Show decaying attention weights; the first head decays faster than the second."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    layer = fill(MultiScaleRetention(embed_dim=8, num_heads=2, rngs=nnx.Rngs(0)))
    output, _, weights = layer(draw(1, 4, 8), need_weights=True)
    show("MultiScaleRetention", AttentionOutput(output, weights), words, words)
    print("decay of the state after 32 tokens:", " ".join(f"{g**32:.3f}" for g in retention_decays(6)))


if __name__ == "__main__":
    main()
