r"""Gated linear attention: a state with data-dependent decay per key feature (Yang et al. 2023).

$$ S_t = \mathrm{diag}(\alpha_t)\, S_{t-1} + k_t v_t^\top, \quad o_t = S_t^\top q_t / \sqrt{d}, \qquad
   \alpha_t = \sigma\!\left(x_t W_1 W_2 + b\right)^{1/\tau}, \qquad
   y = \left(\mathrm{RMSNorm}(o) \odot \mathrm{SiLU}(x W_G)\right) W_O $$

One change from `MultiScaleRetention`: the decay is not a constant per head but a vector that a low-rank map computes
from the token. There is no rotary embedding. With α_t = γ_h for all features of head h, the recurrence is retention
without rotation.

There are three equivalent forms: recurrent, one token per step; chunked; and parallel, as a matrix that maps values to
outputs.

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
from torch_attention.layers import Factory, linear
from torch_attention.linear.states import MemoryState, check_read, first_memory, hide, scan_faded_chunks
from torch_attention.norms import normalise_wide, rms_norm
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
    """Recurrent form of gated linear attention, one token per step.

    Args:
        query: queries, `(batch, heads, length, key_dim)`.
        key: keys, `(batch, heads, length, key_dim)`.
        value: values, `(batch, heads, length, value_dim)`.
        log_decay: logarithm of the decay factor of each key feature before each token, at most 0,
            `(batch, heads, length, key_dim)`.
        state: recurrent state of the earlier tokens; None for an empty one.

    Returns:
        Output `(batch, heads, length, value_dim)`, in the dtype of `value`, and the state after the last token.
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
    """Chunked form of `recurrent_gated_linear_attention`, one chunk per step (section 4).

    Args:
        query, key, value, log_decay, state: as in `recurrent_gated_linear_attention`.
        chunk_size: number of tokens in a chunk.
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
        length=query.shape[2],
    )
    return join_chunks(output, query.shape[2]).to(value.dtype), memory


@checked
def gated_linear_attention_weights(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    log_decay: Float[Tensor, "batch heads length key_dim"],
) -> Float[Tensor, "batch heads length length"]:
    """Attention weights of gated linear attention: the matrix that maps values to outputs, in at least float32.

    The entry for query t and key s <= t is Σ_d q_td k_sd Π_{s < r <= t} α_rd. Rows need not sum to 1, and a weight may
    be negative.
    """
    return decayed_products(*(at_least_float32(x) for x in (query, key, log_decay))).products


@checked
class GatedLinearAttention(nn.Module):
    """Linear attention with a data-dependent decay per key feature (GLA, Yang et al. 2023).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads.
        head_dim: query and key features of a head; None for `embed_dim / (2 num_heads)`.
        value_dim: value features of a head; None for `2 head_dim`.
        gate_rank: rank of the map from a token to its decays.
        gate_temperature: divisor of the log-decays; a higher value gives a slower decay.
        chunk_size: number of tokens in a chunk.
        eps: constant added to the mean square in the output norm.

    Raises:
        ValueError: sizes that do not divide, or are below 1, or a `gate_temperature` or `eps` that is not above 0.
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
        """Apply causal gated linear attention.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, False for padding; None for no mask. Masked tokens leave the
                state unchanged.
            state: recurrent state of the earlier tokens; None for an empty one.
            need_weights: whether to return the attention weights, the matrix that maps values to outputs before the
                norm.

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
    """Show attention weights with a decay that depends on the tokens."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    layer = fill(GatedLinearAttention(embed_dim=8, num_heads=2, gate_temperature=1.0))
    output, _, weights = layer(draw(1, 4, 8), need_weights=True)
    show("GatedLinearAttention", AttentionOutput(output, weights), words, words)


if __name__ == "__main__":
    main()
