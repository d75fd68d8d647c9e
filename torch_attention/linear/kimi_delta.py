r"""Kimi Delta Attention: the delta rule with a state that decays per channel (Kimi Team 2025).

$$ S_t = \left(I - \beta_t k_t k_t^\top\right) \mathrm{Diag}(\alpha_t)\, S_{t-1} + \beta_t k_t v_t^\top,
   \qquad o_t = S_t^\top q_t $$

One change from `GatedDeltaNet`: α_t is a vector with one decay per key channel, so that the layer can forget some
features and keep others. With equal decays for all channels, the rule equals the gated delta rule. Decay and output
gate come from low-rank maps, and the gate is a sigmoid: RMSNorm(o) σ(g).

| symbol | argument    | shape                                                                        |
|--------|-------------|------------------------------------------------------------------------------|
| S      | `state`     | `(batch, heads, key_dim, value_dim)`                                         |
| β      | `beta`      | `(batch, heads, length)`                                                     |
| log α  | `log_decay` | `(batch, heads, length, key_dim)`, at most 0                                 |
| A, b   |             | parameters `A_log`, one entry per head, and `dt_bias`, one entry per channel |
"""

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.activations import sigmoid
from torch_attention.arguments import checked
from torch_attention.arrays import einsum
from torch_attention.checks import check_divisible, check_positive
from torch_attention.layers import Factory, conv1d, linear, uniform_parameter
from torch_attention.linear.decay_rates import LOG_STEPS, RATES, log_fading, step_bias
from torch_attention.linear.delta import unit_length
from torch_attention.linear.delta_chunks import scan_decayed_chunks
from torch_attention.linear.short_conv import (
    ConvolvedState,
    cut,
    short_convolution,
    visible_only,
)
from torch_attention.linear.states import check_read, first_memory
from torch_attention.norms import normalise_wide, rms_norm
from torch_attention.ops import (
    at_least_float32,
    decayed_products,
    join_chunks,
    merge_heads,
    scan,
    solve_unit_lower,
    split_chunks,
    split_heads,
)
from torch_attention.outputs import AttentionOutput, RecurrentOutput


@checked
def recurrent_kimi_delta_rule(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    beta: Float[Tensor, "batch heads length"],
    log_decay: Float[Tensor, "batch heads length key_dim"],
    *,
    state: Float[Tensor, "batch heads key_dim value_dim"] | None = None,
) -> tuple[Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """Recurrent form of the Kimi delta rule, one token per step.

    Args:
        query, key, value, beta, state: as in `recurrent_delta_rule`.
        log_decay: logarithm of the decay factor of each key channel before each token, at most 0,
            `(batch, heads, length, key_dim)`.

    Returns:
        Output `(batch, heads, length, value_dim)`, in the dtype of `query`, and the state after the last token.
    """

    def step(memory: Tensor, token: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        query, key, value, beta, log_decay = token  # batch heads key_dim, or value_dim, or nothing
        memory = memory * torch.exp(log_decay)[..., None]  # batch heads key_dim value_dim
        known = einsum("bhdv,bhd->bhv", memory, key)  # batch heads value_dim
        change = beta[..., None] * (value - known)  # batch heads value_dim
        memory = memory + einsum("bhd,bhv->bhdv", key, change)
        return memory, einsum("bhdv,bhd->bhv", memory, query)

    arrays = (query, key, value, beta, log_decay)
    tokens = (rearrange(at_least_float32(x), "b h l ... -> l b h ...") for x in arrays)
    memory, output = scan(step, first_memory(key, value, state), tuple(tokens))
    return rearrange(output, "l b h v -> b h l v").to(query.dtype), memory


@checked
def chunked_kimi_delta_rule(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    beta: Float[Tensor, "batch heads length"],
    log_decay: Float[Tensor, "batch heads length key_dim"],
    *,
    state: Float[Tensor, "batch heads key_dim value_dim"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """Chunked form of `recurrent_kimi_delta_rule`, one chunk per step (section 3.1).

    The equations are those in `chunked_gated_delta_rule`, with the decay inside the products of queries and keys: Σ_d
    q_td Γ_tsd k_sd.

    Args:
        query, key, value, beta, log_decay, state: as in `recurrent_kimi_delta_rule`.
        chunk_size: number of tokens in a chunk.
    """
    arrays = (query, key, value, beta, log_decay)
    q, k, v, b, g = (split_chunks(at_least_float32(x), chunk_size) for x in arrays)
    decayed = decayed_products(torch.stack([q, k]), k, g)
    scores, overlap = decayed.products[0], decayed.products[1]  # chunks batch heads size size
    values = b[..., None] * torch.concatenate([v, decayed.since_start * k], dim=-1)
    changes = solve_unit_lower(b[..., None] * overlap, values)  # chunks batch heads size value_dim+key_dim
    memory, output = scan_decayed_chunks(
        first_memory(key, value, state),
        read=decayed.since_start * q,
        written=decayed.until_end * k,
        scores=scores,
        change=changes[..., : v.shape[-1]],
        erased=changes[..., v.shape[-1] :],
        decay=decayed.since_start[..., -1, :, None],
        length=query.shape[2],
    )
    return join_chunks(output, query.shape[2]).to(query.dtype), memory


@checked
def kimi_delta_rule_weights(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    beta: Float[Tensor, "batch heads length"],
    log_decay: Float[Tensor, "batch heads length key_dim"],
) -> Float[Tensor, "batch heads length length"]:
    """Attention weights of the Kimi delta rule: the matrix that maps values to outputs, in at least float32.

    It equals `gated_delta_rule_weights` with the decay inside the products of queries and keys.
    """
    query, key, beta, log_decay = (at_least_float32(x) for x in (query, key, beta, log_decay))
    products = decayed_products(torch.stack([query, key]), key, log_decay).products
    rates = beta[..., None] * torch.eye(key.shape[2], dtype=key.dtype, device=key.device)[None, None]
    changes = solve_unit_lower(beta[..., None] * products[1], rates)  # batch heads length length
    return einsum("bhql,bhlk->bhqk", products[0], changes)


@checked
class KimiDeltaAttention(nn.Module):
    """Linear attention with the delta rule and a decay per channel, as in Kimi Linear (Kimi Team 2025).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads, each with its own recurrent state.
        head_dim: query and key features of a head; None for `embed_dim / num_heads`.
        value_dim: value features of a head; None for `head_dim`.
        rank: rank of the maps to the decay and the gate; None for `value_dim`.
        conv_width: width of the short convolution, in tokens.
        chunk_size: number of tokens in a chunk.
        eps: constant added to the mean square in the output norm.

    Raises:
        ValueError: sizes that do not divide, or are below 1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        value_dim: int | None = None,
        rank: int | None = None,
        conv_width: int = 4,
        chunk_size: int = 64,
        eps: float = 1e-5,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_positive(conv_width=conv_width, chunk_size=chunk_size)
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.value_dim = self.head_dim if value_dim is None else value_dim
        rank = self.value_dim if rank is None else rank
        self.conv_width = conv_width
        self.chunk_size = chunk_size
        self.keys, self.values = num_heads * self.head_dim, num_heads * self.value_dim
        self.q_proj = linear(embed_dim, self.keys, bias=False, **factory)
        self.k_proj = linear(embed_dim, self.keys, bias=False, **factory)
        self.v_proj = linear(embed_dim, self.values, bias=False, **factory)
        self.b_proj = linear(embed_dim, num_heads, bias=False, **factory)
        self.f_a_proj = linear(embed_dim, rank, bias=False, **factory)
        self.f_b_proj = linear(rank, self.keys, bias=False, **factory)
        self.g_a_proj = linear(embed_dim, rank, bias=False, **factory)
        self.g_b_proj = linear(rank, self.values, bias=False, **factory)
        self.A_log = uniform_parameter(num_heads, between=RATES, through=torch.log, **factory)
        self.dt_bias = uniform_parameter(self.keys, between=LOG_STEPS, through=step_bias, **factory)
        features = 2 * self.keys + self.values
        self.conv = conv1d(features, features, conv_width, groups=features, bias=False, **factory)
        self.norm = rms_norm(self.value_dim, eps=eps, **factory)
        self.out_proj = linear(self.values, embed_dim, bias=False, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        state: ConvolvedState | None = None,
        need_weights: bool = False,
    ) -> RecurrentOutput:
        """Apply causal linear attention with the Kimi delta rule.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, False for padding; None for no mask. Masked tokens leave the
                state unchanged and enter the short convolution as zeros.
            state: recurrent state of the earlier tokens; None for an empty one.
            need_weights: whether to return the attention weights, the matrix that maps values to outputs.

        Returns:
            Output `(batch, length, embed_dim)`, the state after the last token, and weights
            `(batch, heads, length, length)` or None.
        """
        memory_shape = (self.num_heads, self.head_dim, self.value_dim)
        inputs_shape = (self.conv_width - 1, 2 * self.keys + self.values)
        check_read(x, self.embed_dim, mask, state, memory_shape, inputs_shape)
        x = visible_only(x, mask)
        features = torch.concatenate([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)
        features, inputs = short_convolution(self.conv, features, state, self.conv_width)
        query, key, value = cut(visible_only(features, mask), self.keys, self.keys, self.values)
        query = unit_length(split_heads(query, self.head_dim)) * self.head_dim**-0.5
        key = unit_length(split_heads(key, self.head_dim))  # batch heads length head_dim
        value = at_least_float32(split_heads(value, self.value_dim))  # batch heads length value_dim
        beta = visible_only(sigmoid(at_least_float32(self.b_proj(x))), mask)
        beta = rearrange(beta, "b l h -> b h l")
        rates = repeat(self.A_log[...], "h -> (h d)", d=self.head_dim)  # heads·head_dim
        log_decay = log_fading(self.f_b_proj(self.f_a_proj(x)), rates, self.dt_bias[...])
        log_decay = split_heads(visible_only(log_decay, mask), self.head_dim)  # batch heads length head_dim
        memory = None if state is None else state.memory
        if x.shape[1] == 1:
            heads, memory = recurrent_kimi_delta_rule(query, key, value, beta, log_decay, state=memory)
        else:
            heads, memory = chunked_kimi_delta_rule(
                query, key, value, beta, log_decay, state=memory, chunk_size=self.chunk_size
            )
        weights = kimi_delta_rule_weights(query, key, beta, log_decay) if need_weights else None
        gate = sigmoid(split_heads(self.g_b_proj(self.g_a_proj(x)), self.value_dim))
        heads = merge_heads(
            normalise_wide(self.norm, heads).to(x.dtype) * gate
        )  # batch length heads·value_dim
        return RecurrentOutput(self.out_proj(heads), ConvolvedState(memory, inputs), weights)


def main() -> None:
    """Show a state with one decaying channel, and the attention weights of a layer."""
    from torch_attention.demonstration import draw, fill, show

    key = torch.as_tensor([[[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]])  # the third key equals the first
    value = torch.as_tensor([[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]])
    beta = torch.as_tensor([[[1.0, 1.0, 0.5]]])
    log_decay = torch.log(torch.as_tensor([[[[1.0, 1.0], [1.0, 1.0], [0.1, 1.0]]]]))
    _, memory = recurrent_kimi_delta_rule(key, key, value, beta, log_decay)
    print("Before the third token, the first channel decays by a factor of 0.1, and the second does not:")
    print(" ".join(f"{number:.3f}" for row in memory[0, 0].tolist() for number in row))

    words = ["the", "cat", "sat", "still"]
    layer = fill(KimiDeltaAttention(embed_dim=6, num_heads=2))
    output, _, weights = layer(draw(1, 4, 6), need_weights=True)
    show("KimiDeltaAttention", AttentionOutput(output, weights), words, words)


if __name__ == "__main__":
    main()
