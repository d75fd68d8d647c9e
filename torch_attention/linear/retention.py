r"""Retention: linear attention that forgets, each head at a rate of its own (Sun et al. 2023).

$$ S_n = \gamma_h R_{-1} S_{n-1} + k_n v_n^\top, \quad o_n = S_n^\top q_n / \sqrt{d}, \qquad
   \gamma_h = 1 - 2^{-5-h}, \qquad y = \left(\mathrm{SiLU}(x W_G) \odot \mathrm{RMS}(o)\right) W_O $$

Three changes from `LinearAttention`: there is no φ and no denominator, and what is read is divided by its root mean
square instead, head by head, and gated; before each token the memory shrinks by γ_h, slowly where h is large; and it
turns back by the angles θ of a rotary embedding, so that a product depends on how long ago a key was read. Turning
the memory step by step is turning queries and keys by their positions; the memory is always as the last token sees
it, so that going on from it needs no position.

Three forms, all equal: step by step; in chunks; and in parallel, q_n·(γ R_{-1})^{n-m} k_m for all pairs n, m.

| symbol   | argument             | shape                                  |
|----------|----------------------|----------------------------------------|
| S        | `state.memory`       | `(batch, heads, head_dim, value_dim)`  |
| log γ    | `log_decay`          | `(batch, heads, length)`, at most 0    |
| θ        | `frequencies`        | one a pair of features                 |
| d        | `head_dim`           |                                        |
"""

import math
from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.activations import silu
from torch_attention.arguments import checked
from torch_attention.arrays import einsum
from torch_attention.checks import check_above_zero, check_divisible, check_positive
from torch_attention.layers import Factory, linear
from torch_attention.linear.memory import MemoryState, check_read, first_memory, hide, scan_faded_chunks
from torch_attention.ops import (
    at_least_float32,
    decay_matrix,
    join_chunks,
    merge_heads,
    scan,
    split_chunks,
    split_heads,
)
from torch_attention.outputs import AttentionOutput, RecurrentOutput
from torch_attention.positions.rotary import rotate


@checked
def retention_decays(num_heads: int) -> tuple[float, ...]:
    """γ_h = 1 - 2^(-5-h), the factor by which the memory of head h shrinks before each token."""
    return tuple(1.0 - 2.0 ** (-5 - h) for h in range(num_heads))


@checked
def retention_frequencies(head_dim: int, base: float = 10000.0) -> tuple[float, ...]:
    """θ_i = base^(-i / (d/2 - 1)), in radians a token: from 1 for the first pair to 1 / base for the last.

    Raises:
        ValueError: `head_dim` is odd.
    """
    check_divisible(head_dim=head_dim, pair=2)
    last = max(head_dim // 2 - 1, 1)
    return tuple(base ** (-i / last) for i in range(head_dim // 2))


@checked
def recurrent_retention(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    log_decay: Float[Tensor, "batch heads length"],
    *,
    state: Float[Tensor, "batch heads key_dim value_dim"] | None = None,
) -> tuple[Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """Retention as it is defined, one token after the other.

    Args:
        query, key: turned by their positions, if they are to be.
        value: values, whose weighted mean is the output.
        log_decay: logarithm of the factor by which the memory shrinks before each token, at most 0.
        state: recurrent state of the earlier tokens; None for an empty one.

    Returns:
        What was read, in the dtype of `value`, and the memory after the last token.
    """

    def step(memory: Tensor, token: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        query, key, value, log_decay = token  # batch heads key_dim, or value_dim, or nothing
        memory = memory * torch.exp(log_decay)[..., None, None]  # batch heads key_dim value_dim
        memory = memory + einsum("bhd,bhv->bhdv", key, value)
        return memory, einsum("bhd,bhdv->bhv", query, memory)

    arrays = (query, key, value, log_decay)
    tokens = (rearrange(at_least_float32(x), "b h l ... -> l b h ...") for x in arrays)
    memory, output = scan(step, first_memory(key, value, state), tuple(tokens))
    return rearrange(output, "l b h v -> b h l v").to(value.dtype), memory


@checked
def chunked_retention(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    log_decay: Float[Tensor, "batch heads length"],
    *,
    state: Float[Tensor, "batch heads key_dim value_dim"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """The same as `recurrent_retention` with one step a chunk (section 2.1, "chunkwise recurrent").

    Args:
        query, key, value, log_decay, state: as in `recurrent_retention`.
        chunk_size: how many tokens are read at once.
    """
    arrays = (query, key, value, log_decay)
    q, k, v, g = (split_chunks(at_least_float32(x), chunk_size) for x in arrays)
    between = decay_matrix(g)  # chunks batch heads size size
    since_start = torch.exp(torch.cumsum(g, dim=-1))[..., None]  # chunks batch heads size 1
    memory, output = scan_faded_chunks(
        first_memory(key, value, state),
        read=since_start * q,
        written=between[..., -1, :, None] * k,
        scores=between * einsum("...qd,...kd->...qk", q, k),
        value=v,
        decay=since_start[..., -1:, :],
    )
    return join_chunks(output, query.shape[2]).to(value.dtype), memory


@checked
def parallel_retention(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    log_decay: Float[Tensor, "batch heads length"],
) -> Float[Tensor, "batch heads length value_dim"]:
    """The same as `recurrent_retention` for all pairs at once, from an empty memory (equation 5)."""
    weights = retention_weights(query, key, log_decay)  # batch heads length length
    return einsum("bhqk,bhkv->bhqv", weights, at_least_float32(value)).to(value.dtype)


@checked
def retention_weights(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    log_decay: Float[Tensor, "batch heads length"],
) -> Float[Tensor, "batch heads length length"]:
    """The matrix from values to outputs, Q Kᵀ ⊙ D with D_nm = γ^(n-m) for m <= n, in at least float32.

    Its rows need not sum to 1, and a weight may be negative.
    """
    scores = einsum("bhqd,bhkd->bhqk", at_least_float32(query), at_least_float32(key))
    return torch.tril(decay_matrix(at_least_float32(log_decay)) * scores)  # batch heads length length


@checked
def over_root_mean_square(x: Float[Tensor, "... dim"], eps: float) -> Float[Tensor, "... dim"]:
    """X / √(mean x² + ε), in at least float32."""
    x = at_least_float32(x)
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + eps)


@checked
class MultiScaleRetention(nn.Module):
    """Multi-head attention by a memory that fades at a fixed rate, one a head (Sun et al. 2023).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads.
        head_dim: query and key features of a head; None for `embed_dim / num_heads`.
        value_dim: features of values in a head; `2 head_dim` if None.
        frequencies: radians a token by which each pair of features turns; `retention_frequencies` if None.
        interleaved: whether features 2i and 2i + 1 make a pair, instead of i and i + d/2.
        chunk_size: how many tokens are read at once.
        eps: added to the mean square in the norm of the output.
        bias: whether the projections have biases.

    Raises:
        ValueError: sizes that do not divide, or are below 1, an `eps` that is not above 0, or not one frequency a pair.
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
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_positive(chunk_size=chunk_size)
        check_above_zero(eps=eps)
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim, self.num_heads = embed_dim, num_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.value_dim = 2 * self.head_dim if value_dim is None else value_dim
        known = retention_frequencies(self.head_dim)
        self.frequencies = known if frequencies is None else tuple(frequencies)
        if len(self.frequencies) != len(known):
            raise ValueError(
                f"frequencies must be one a pair, {len(known)} for head_dim={self.head_dim}, "
                f"got {len(self.frequencies)}"
            )
        self.log_decays = tuple(math.log(decay) for decay in retention_decays(num_heads))
        self.interleaved, self.chunk_size, self.eps = interleaved, chunk_size, eps
        self.q_proj = linear(embed_dim, num_heads * self.head_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, num_heads * self.head_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, num_heads * self.value_dim, bias=bias, **factory)
        self.gate_proj = linear(embed_dim, num_heads * self.value_dim, bias=bias, **factory)
        self.out_proj = linear(num_heads * self.value_dim, embed_dim, bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        state: MemoryState | None = None,
        need_weights: bool = False,
    ) -> RecurrentOutput:
        """Read the sequence token by token; no position sees a later one.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: `(batch, 1, 1, length)`, False where a token is not there: nothing is written, and no time passes.
            state: recurrent state of the earlier tokens; None for an empty one.
            need_weights: whether to return the matrix that maps values to outputs, before the norm.

        Returns:
            Output `(batch, length, embed_dim)`, the state after the last token, and weights
            `(batch, heads, length, length)` or None.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_read(x, self.embed_dim, mask, state, (self.num_heads, self.head_dim, self.value_dim))
        wide = at_least_float32(x).dtype
        there = torch.ones(x.shape[:2], dtype=wide, device=x.device)  # batch length
        there = there if mask is None else there * mask[:, 0, 0].to(wide)
        log_decay = torch.as_tensor(self.log_decays, dtype=wide, device=x.device)  # heads
        log_decay = there[:, None] * log_decay[None, :, None]  # batch heads length
        frequencies = torch.as_tensor(self.frequencies, dtype=wide, device=x.device)  # pairs
        angles = torch.cumsum(there, dim=-1)[..., None] * frequencies[None, None]  # batch length pairs

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
        heads = gate * merge_heads(over_root_mean_square(heads, self.eps).to(x.dtype))
        return RecurrentOutput(self.out_proj(heads), MemoryState(self._seen_by_last(memory, angles)), weights)

    def _seen_by_last(
        self,
        memory: Float[Tensor, "batch heads head_dim value_dim"],
        angles: Float[Tensor, "batch length pairs"],
    ) -> Float[Tensor, "batch heads head_dim value_dim"]:
        """The memory, turned back by all the angles that this call has turned its keys."""
        rows = memory.swapaxes(-1, -2)  # batch heads value_dim head_dim
        start = torch.zeros((angles.shape[0], 1, angles.shape[2]), dtype=angles.dtype, device=angles.device)
        last = torch.concatenate([start, angles], dim=1)[:, -1:]  # batch 1 pairs
        back = torch.broadcast_to(-last[:, None], (*rows.shape[:1], 1, rows.shape[2], angles.shape[2]))
        return rotate(rows, back, interleaved=self.interleaved).swapaxes(-1, -2)


def main() -> None:
    """Show weights that fade, and faster in the first head than in the second."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    layer = fill(MultiScaleRetention(embed_dim=8, num_heads=2))
    output, _, weights = layer(draw(1, 4, 8), need_weights=True)
    show("MultiScaleRetention", AttentionOutput(output, weights), words, words)
    print("left of a memory after 32 tokens:", " ".join(f"{g**32:.3f}" for g in retention_decays(6)))


if __name__ == "__main__":
    main()
