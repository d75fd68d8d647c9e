r"""Gated DeltaNet: the delta rule with a decaying state (Yang, Kautz & Hatamizadeh 2024; Qwen3-Next).

$$ S_t = \alpha_t S_{t-1} + \beta_t k_t \left(v_t - \alpha_t S_{t-1}^\top k_t\right)^\top, \qquad o_t = S_t^\top q_t,
   \qquad \alpha_t = \exp\!\left(-e^A\,\mathrm{softplus}(a_t + b)\right) $$

Two changes from `DeltaNet`: the state decays by a data-dependent factor α_t per head, so that a layer can clear it at
once; and the output is normalised and gated, RMSNorm(o) SiLU(z). With α = 1 the rule is the delta rule of `DeltaNet`.

| symbol | argument    | shape                                                          |
|--------|-------------|----------------------------------------------------------------|
| S      | `state`     | `(batch, heads, key_dim, value_dim)`                           |
| β      | `beta`      | `(batch, heads, length)`                                       |
| log α  | `log_decay` | `(batch, heads, length)`, at most 0                            |
| A, b   |             | parameters `A_log` and `dt_bias`, one entry per value head     |
| z, a   |             | `z_proj(x)` and `a_proj(x)`                                    |
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.activations import sigmoid, silu
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
    decay_matrix,
    join_chunks,
    merge_heads,
    repeat_heads,
    scan,
    solve_unit_lower,
    split_chunks,
    split_heads,
)
from torch_attention.outputs import AttentionOutput, RecurrentOutput


@checked
def recurrent_gated_delta_rule(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    beta: Float[Tensor, "batch heads length"],
    log_decay: Float[Tensor, "batch heads length"],
    *,
    state: Float[Tensor, "batch heads key_dim value_dim"] | None = None,
) -> tuple[Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """Recurrent form of the gated delta rule, one token per step.

    Args:
        query, key, value, beta, state: as in `recurrent_delta_rule`.
        log_decay: logarithm of the decay factor of the state before each token, at most 0, `(batch, heads, length)`.

    Returns:
        Output `(batch, heads, length, value_dim)`, in the dtype of `query`, and the state after the last token.
    """

    def step(memory: Tensor, token: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        query, key, value, beta, log_decay = token  # batch heads key_dim, or value_dim, or nothing
        memory = memory * torch.exp(log_decay)[..., None, None]  # batch heads key_dim value_dim
        known = einsum("bhdv,bhd->bhv", memory, key)  # batch heads value_dim
        change = beta[..., None] * (value - known)  # batch heads value_dim
        memory = memory + einsum("bhd,bhv->bhdv", key, change)
        return memory, einsum("bhdv,bhd->bhv", memory, query)

    arrays = (query, key, value, beta, log_decay)
    tokens = (rearrange(at_least_float32(x), "b h l ... -> l b h ...") for x in arrays)
    memory, output = scan(step, first_memory(key, value, state), tuple(tokens))
    return rearrange(output, "l b h v -> b h l v").to(query.dtype), memory


@checked
def chunked_gated_delta_rule(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    value: Float[Tensor, "batch heads length value_dim"],
    beta: Float[Tensor, "batch heads length"],
    log_decay: Float[Tensor, "batch heads length"],
    *,
    state: Float[Tensor, "batch heads key_dim value_dim"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads key_dim value_dim"]]:
    """Chunked form of `recurrent_gated_delta_rule`, one chunk per step (section 3.3).

    With Γ_ts the decay from step s to step t, and γ the decay since the start of the chunk, the written differences U
    solve (I + tril(diag(β) K Kᵀ ⊙ Γ, -1)) U = diag(β) (V - diag(γ) K S).

    Args:
        query, key, value, beta, log_decay, state: as in `recurrent_gated_delta_rule`.
        chunk_size: number of tokens in a chunk.
    """
    arrays = (query, key, value, beta, log_decay)
    q, k, v, b, g = (split_chunks(at_least_float32(x), chunk_size) for x in arrays)
    between = decay_matrix(g)  # chunks batch heads size size
    since_start = torch.exp(torch.cumsum(g, dim=-1))[..., None]  # chunks batch heads size 1
    until_end = between[..., -1, :, None]  # chunks batch heads size 1
    values = b[..., None] * torch.concatenate([v, since_start * k], dim=-1)
    overlap = b[..., None] * between * einsum("...qd,...kd->...qk", k, k)
    changes = solve_unit_lower(overlap, values)  # chunks batch heads size value_dim+key_dim
    memory, output = scan_decayed_chunks(
        first_memory(key, value, state),
        read=since_start * q,
        written=until_end * k,
        scores=between * einsum("...qd,...kd->...qk", q, k),
        change=changes[..., : v.shape[-1]],
        erased=changes[..., v.shape[-1] :],
        decay=since_start[..., -1:, :],
        length=query.shape[2],
    )
    return join_chunks(output, query.shape[2]).to(query.dtype), memory


@checked
def gated_delta_rule_weights(
    query: Float[Tensor, "batch heads length key_dim"],
    key: Float[Tensor, "batch heads length key_dim"],
    beta: Float[Tensor, "batch heads length"],
    log_decay: Float[Tensor, "batch heads length"],
) -> Float[Tensor, "batch heads length length"]:
    """Attention weights of the gated delta rule: the matrix that maps values to outputs, in at least float32.

    It equals `delta_rule_weights` with both products multiplied elementwise by the decays Γ.
    """
    query, key, beta, log_decay = (at_least_float32(x) for x in (query, key, beta, log_decay))
    between = decay_matrix(log_decay)  # batch heads length length
    scores = between * einsum("bhqd,bhkd->bhqk", query, key)  # batch heads length length
    overlap = beta[..., None] * between * einsum("bhqd,bhkd->bhqk", key, key)
    rates = beta[..., None] * torch.eye(key.shape[2], dtype=key.dtype, device=key.device)[None, None]
    return einsum("bhql,bhlk->bhqk", scores, solve_unit_lower(overlap, rates))


@checked
class GatedDeltaNet(nn.Module):
    """Linear attention with the gated delta rule, as in Qwen3-Next (Yang, Kautz & Hatamizadeh 2024).

    Args:
        embed_dim: features of input and output.
        num_heads: number of query and key heads.
        num_value_heads: number of value heads, each with its own recurrent state; a multiple of `num_heads`; None for
            `num_heads`. Value head h uses the queries and keys of head `h // (num_value_heads // num_heads)`.
        head_dim: query and key features of a head; None for `embed_dim / num_heads`.
        value_dim: value features of a head; None for `head_dim`.
        conv_width: width of the short convolution, in tokens.
        chunk_size: number of tokens in a chunk.
        eps: constant added to the mean square in the output norm.
        beta_scale: factor on β, a sigmoid; 2 allows negative eigenvalues of the transition (Grazzi et al. 2024).

    Raises:
        ValueError: sizes that do not divide, or are below 1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        num_value_heads: int | None = None,
        head_dim: int | None = None,
        value_dim: int | None = None,
        conv_width: int = 4,
        chunk_size: int = 64,
        eps: float = 1e-6,
        beta_scale: float = 1.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        num_value_heads = num_heads if num_value_heads is None else num_value_heads
        check_positive(conv_width=conv_width, chunk_size=chunk_size)
        check_divisible(num_value_heads=num_value_heads, num_heads=num_heads)
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_value_heads = num_value_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.value_dim = self.head_dim if value_dim is None else value_dim
        self.conv_width = conv_width
        self.chunk_size = chunk_size
        self.beta_scale = beta_scale
        self.keys, self.values = num_heads * self.head_dim, num_value_heads * self.value_dim
        self.q_proj = linear(embed_dim, self.keys, bias=False, **factory)
        self.k_proj = linear(embed_dim, self.keys, bias=False, **factory)
        self.v_proj = linear(embed_dim, self.values, bias=False, **factory)
        self.z_proj = linear(embed_dim, self.values, bias=False, **factory)
        self.a_proj = linear(embed_dim, num_value_heads, bias=False, **factory)
        self.b_proj = linear(embed_dim, num_value_heads, bias=False, **factory)
        self.A_log = uniform_parameter(num_value_heads, between=RATES, through=torch.log, **factory)
        self.dt_bias = uniform_parameter(num_value_heads, between=LOG_STEPS, through=step_bias, **factory)
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
        """Apply causal linear attention with the gated delta rule.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, False for padding; None for no mask. Masked tokens leave the
                state unchanged and enter the short convolution as zeros.
            state: recurrent state of the earlier tokens; None for an empty one.
            need_weights: whether to return the attention weights, the matrix that maps values to outputs.

        Returns:
            Output `(batch, length, embed_dim)`, the state after the last token, and weights
            `(batch, value_heads, length, length)` or None.
        """
        memory_shape = (self.num_value_heads, self.head_dim, self.value_dim)
        inputs_shape = (self.conv_width - 1, 2 * self.keys + self.values)
        check_read(x, self.embed_dim, mask, state, memory_shape, inputs_shape)
        x = visible_only(x, mask)
        features = torch.concatenate([self.q_proj(x), self.k_proj(x), self.v_proj(x)], dim=-1)
        features, inputs = short_convolution(self.conv, features, state, self.conv_width)
        query, key, value = cut(visible_only(features, mask), self.keys, self.keys, self.values)
        query = unit_length(split_heads(query, self.head_dim)) * self.head_dim**-0.5
        query = repeat_heads(query, self.num_value_heads)  # batch value_heads length head_dim
        key = repeat_heads(unit_length(split_heads(key, self.head_dim)), self.num_value_heads)
        value = at_least_float32(split_heads(value, self.value_dim))  # batch value_heads length value_dim
        beta = visible_only(self.beta_scale * sigmoid(at_least_float32(self.b_proj(x))), mask)
        log_decay = visible_only(log_fading(self.a_proj(x), self.A_log[...], self.dt_bias[...]), mask)
        rates = tuple(rearrange(rate, "b l h -> b h l") for rate in (beta, log_decay))
        memory = None if state is None else state.memory
        if x.shape[1] == 1:
            heads, memory = recurrent_gated_delta_rule(query, key, value, *rates, state=memory)
        else:
            heads, memory = chunked_gated_delta_rule(
                query, key, value, *rates, state=memory, chunk_size=self.chunk_size
            )
        weights = gated_delta_rule_weights(query, key, *rates) if need_weights else None
        gate = silu(split_heads(self.z_proj(x), self.value_dim))  # batch value_heads length value_dim
        heads = merge_heads(
            normalise_wide(self.norm, heads).to(x.dtype) * gate
        )  # batch length value_heads·value_dim
        return RecurrentOutput(self.out_proj(heads), ConvolvedState(memory, inputs), weights)


def main() -> None:
    """Show a state that decays while it is overwritten, and the attention weights of a layer."""
    from torch_attention.demonstration import draw, fill, show

    key = torch.as_tensor([[[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]])  # the third key equals the first
    value = torch.as_tensor([[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]])
    beta = torch.as_tensor([[[1.0, 1.0, 0.5]]])
    log_decay = torch.log(torch.as_tensor([[[1.0, 1.0, 0.1]]]))
    _, memory = recurrent_gated_delta_rule(key, key, value, beta, log_decay)
    print("Before the third token, the state decays by a factor of 0.1:")
    print(" ".join(f"{number:.3f}" for row in memory[0, 0].tolist() for number in row))

    words = ["the", "cat", "sat", "still"]
    layer = fill(GatedDeltaNet(embed_dim=6, num_heads=1, num_value_heads=2, head_dim=3))
    output, _, weights = layer(draw(1, 4, 6), need_weights=True)
    show("GatedDeltaNet", AttentionOutput(output, weights), words, words)


if __name__ == "__main__":
    main()
