r"""Gated linear attention: each feature of the memory fades as the token decides (Yang et al. 2023).

$$ S_t = \mathrm{diag}(\alpha_t)\, S_{t-1} + k_t v_t^\top, \quad o_t = S_t^\top q_t / \sqrt{d}, \qquad
   \alpha_t = \sigma\!\left(x_t W_1 W_2 + b\right)^{1/\tau}, \qquad
   y = \left(\mathrm{RMSNorm}(o) \odot \mathrm{SiLU}(x W_G)\right) W_O $$

One change from `MultiScaleRetention`: the decay is not a fixed number a head but a vector that is computed from the
token, by a map of low rank; with it goes the rotary embedding. With α_t = γ_h in all features of head h the recurrence
is that of retention.

Three forms, all equal: step by step; in chunks; and as a matrix from values to outputs.

| symbol | argument           | shape                                         |
|--------|--------------------|-----------------------------------------------|
| S      | `state.memory`     | `(batch, heads, head_dim, value_dim)`         |
| log α  | `log_decay`        | `(batch, heads, length, head_dim)`, at most 0 |
| τ      | `gate_temperature` |                                               |
| d      | `head_dim`         |                                               |
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.activations import silu, softplus
from torch_attention.arguments import checked
from torch_attention.arrays import einsum
from torch_attention.checks import check_above_zero, check_divisible, check_positive
from torch_attention.layers import Factory, linear, normalise_wide, rms_norm
from torch_attention.linear.memory import MemoryState, check_read, first_memory, hide, scan_faded_chunks
from torch_attention.ops import (
    at_least_float32,
    decayed_products,
    join_chunks,
    merge_heads,
    scan,
    split_chunks,
    split_heads,
)
from torch_attention.outputs import AttentionOutput, RecurrentOutput


@checked
def recurrent_gated_linear_attention(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    log_decay: Float[Tensor, "batch heads length key_dim"],
    *,
    state: Float[Tensor, "batch heads key_dim value_dim"] | None = None,
) -> tuple[Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """Gated linear attention as it is defined, one token after the other.

    Args:
        query: what is looked up.
        key: what the values are stored under.
        value: values, whose weighted mean is the output.
        log_decay: logarithm of the factors by which the memory shrinks before each token, at most 0.
        state: recurrent state of the earlier tokens; None for an empty one.

    Returns:
        What was read, in the dtype of `value`, and the memory after the last token.
    """

    def step(memory: Tensor, token: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        query, key, value, log_decay = token  # batch heads key_dim, or value_dim
        memory = memory * torch.exp(log_decay)[..., None]  # batch heads key_dim value_dim
        memory = memory + einsum("bhd,bhv->bhdv", key, value)
        return memory, einsum("bhd,bhdv->bhv", query, memory)

    arrays = (query, key, value, log_decay)
    tokens = (rearrange(at_least_float32(x), "b h l d -> l b h d") for x in arrays)
    memory, output = scan(step, first_memory(key, value, state), tuple(tokens))
    return rearrange(output, "l b h v -> b h l v").to(value.dtype), memory


@checked
def chunked_gated_linear_attention(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    log_decay: Float[Tensor, "batch heads length key_dim"],
    *,
    state: Float[Tensor, "batch heads key_dim value_dim"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """The same as `recurrent_gated_linear_attention` with one step a chunk (section 4).

    Args:
        query, key, value, log_decay, state: as in `recurrent_gated_linear_attention`.
        chunk_size: how many tokens are read at once.
    """
    arrays = (query, key, value, log_decay)
    q, k, v, g = (split_chunks(at_least_float32(x), chunk_size) for x in arrays)
    faded = decayed_products(q, k, g)
    memory, output = scan_faded_chunks(
        first_memory(key, value, state),
        read=faded.since_start * q,
        written=faded.until_end * k,
        scores=faded.products,
        value=v,
        decay=faded.since_start[..., -1, :, None],
    )
    return join_chunks(output, query.shape[2]).to(value.dtype), memory


@checked
def gated_linear_attention_weights(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    log_decay: Float[Tensor, "batch heads length key_dim"],
) -> Float[Tensor, "batch heads length length"]:
    """The matrix from values to outputs, Σ_d q_td k_sd Π_{s < r <= t} α_rd for s <= t, in at least float32.

    Its rows need not sum to 1, and a weight may be negative.
    """
    return decayed_products(*(at_least_float32(x) for x in (query, key, log_decay))).products


@checked
class GatedLinearAttention(nn.Module):
    """Multi-head attention by a memory that fades as the token decides (GLA, Yang et al. 2023).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads.
        head_dim: features of queries and keys in a head; `embed_dim / (2 num_heads)` if None.
        value_dim: features of values in a head; `2 head_dim` if None.
        gate_rank: rank of the map from a token to its decays.
        gate_temperature: by which the logarithm of the decays is divided: the higher, the slower the memory fades.
        chunk_size: how many tokens are read at once.
        eps: added to the mean square in the norm of the output.

    Raises:
        ValueError: sizes that do not divide, or are below 1, or a number that is not above 0.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        value_dim: int | None = None,
        gate_rank: int = 16,
        gate_temperature: float = 16.0,
        chunk_size: int = 64,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_positive(gate_rank=gate_rank, chunk_size=chunk_size)
        check_above_zero(gate_temperature=gate_temperature, eps=eps)
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, twice_num_heads=2 * num_heads)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // (2 * num_heads) if head_dim is None else head_dim
        self.value_dim = 2 * self.head_dim if value_dim is None else value_dim
        self.gate_temperature = gate_temperature
        self.chunk_size = chunk_size
        self.q_proj = linear(embed_dim, num_heads * self.head_dim, bias=False, **factory)
        self.k_proj = linear(embed_dim, num_heads * self.head_dim, bias=False, **factory)
        self.v_proj = linear(embed_dim, num_heads * self.value_dim, bias=False, **factory)
        self.decay_down_proj = linear(embed_dim, gate_rank, bias=False, **factory)
        self.decay_up_proj = linear(gate_rank, num_heads * self.head_dim, **factory)
        self.gate_proj = linear(embed_dim, num_heads * self.value_dim, bias=False, **factory)
        self.norm = rms_norm(self.value_dim, eps=eps, **factory)
        self.out_proj = linear(num_heads * self.value_dim, embed_dim, bias=False, **factory)

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
            mask: `(batch, 1, 1, length)`, False where a token is not there: the memory stays as it is.
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
        query = split_heads(self.q_proj(x), self.head_dim)  # batch heads length head_dim
        query = at_least_float32(query) * self.head_dim**-0.5
        key = hide(split_heads(self.k_proj(x), self.head_dim), mask)  # batch heads length head_dim
        value = at_least_float32(split_heads(self.v_proj(x), self.value_dim))  # batch heads length value_dim
        gate = split_heads(self.decay_up_proj(self.decay_down_proj(x)), self.head_dim)
        log_decay = -softplus(-at_least_float32(gate)) / self.gate_temperature  # batch heads length head_dim
        log_decay = hide(log_decay, mask)
        memory = None if state is None else state.memory
        if x.shape[1] == 1:
            heads, memory = recurrent_gated_linear_attention(query, key, value, log_decay, state=memory)
        else:
            heads, memory = chunked_gated_linear_attention(
                query, key, value, log_decay, state=memory, chunk_size=self.chunk_size
            )
        weights = gated_linear_attention_weights(query, key, log_decay) if need_weights else None
        heads = normalise_wide(self.norm, heads).to(x.dtype)  # batch heads length value_dim
        heads = merge_heads(heads) * silu(self.gate_proj(x))  # batch length heads·value_dim
        return RecurrentOutput(self.out_proj(heads), MemoryState(memory), weights)


def main() -> None:
    """Show weights that fade as the tokens decide."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    layer = fill(GatedLinearAttention(embed_dim=8, num_heads=2, gate_temperature=1.0))
    output, _, weights = layer(draw(1, 4, 8), need_weights=True)
    show("GatedLinearAttention", AttentionOutput(output, weights), words, words)


if __name__ == "__main__":
    main()
