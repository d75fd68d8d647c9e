r"""State-space duality: a state-space model computed as decaying linear attention (Mamba-2; Dao & Gu 2024).

$$ S_t = \alpha_t S_{t-1} + B_t \left(\Delta_t x_t\right)^\top, \qquad y_t = S_t^\top C_t + D x_t,
   \qquad \alpha_t = \exp\!\left(-e^A \Delta_t\right) $$

As a state-space model, it is a linear system whose input is scaled by the time step Δ and whose state decays over this
time step. As attention, C is the query, B the key and Δ x the value, and the weights are tril(C Bᵀ) ⊙ Γ, with Γ_ts the
decay from step s to step t. It is `GatedDeltaNet` without the delta rule: values are added and never overwritten. There
are three equivalent forms: recurrent, chunked and parallel.

| symbol | argument         | shape                                       |
|--------|------------------|---------------------------------------------|
| C, B   | `query`, `key`   | `(batch, heads, length, key_dim)`           |
| Δ x    | `value`          | `(batch, heads, length, value_dim)`         |
| log α  | `log_decay`      | `(batch, heads, length)`, at most 0         |
| S      | `state`          | `(batch, heads, key_dim, value_dim)`        |
| A, D   |                  | parameters `A_log` and `D`, one per head    |
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.checks import check_divisible, check_positive
from jax_attention.layers import Factory, constant_parameter, conv1d, linear, uniform_parameter
from jax_attention.linear.decay_rates import LOG_STEPS, RATES, step_bias, time_step
from jax_attention.linear.gated_norm import check_gated_norm, gated_norm
from jax_attention.linear.short_conv import (
    ConvolvedState,
    cut,
    scaled_parts,
    short_convolution,
    visible_only,
)
from jax_attention.linear.states import check_read, first_memory
from jax_attention.ops import (
    at_least_float32,
    decay_matrix,
    join_chunks,
    merge_heads,
    repeat_heads,
    scan,
    split_chunks,
    split_heads,
)
from jax_attention.outputs import AttentionOutput, RecurrentOutput


@checked
def recurrent_state_space(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    value: Float[Array, "batch heads length value_dim"],
    log_decay: Float[Array, "batch heads length"],
    *,
    state: Float[Array, "batch heads key_dim value_dim"] | None = None,
) -> tuple[Float[Array, "batch heads length value_dim"], Float[Array, "batch heads key_dim value_dim"]]:
    """Recurrent form of the state-space model, one token per step: S_t = α_t S_{t-1} + k_t v_tᵀ, o_t = S_tᵀ q_t.

    Args:
        query: queries C, `(batch, heads, length, key_dim)`.
        key: keys B, `(batch, heads, length, key_dim)`.
        value: values Δ x, `(batch, heads, length, value_dim)`.
        log_decay: logarithm of the decay factor of the state before each token, at most 0, `(batch, heads, length)`.
        state: recurrent state of the earlier tokens; None for an empty one.

    Returns:
        Output `(batch, heads, length, value_dim)`, in the dtype of `query`, and the state after the last token.
    """

    def step(memory: Array, token: tuple[Array, ...]) -> tuple[Array, Array]:
        query, key, value, log_decay = token  # batch heads key_dim, or value_dim, or nothing
        memory = memory * jnp.exp(log_decay)[..., None, None]  # batch heads key_dim value_dim
        memory = memory + einsum("bhd,bhv->bhdv", key, value)
        return memory, einsum("bhdv,bhd->bhv", memory, query)

    arrays = (query, key, value, log_decay)
    tokens = (rearrange(at_least_float32(x), "b h l ... -> l b h ...") for x in arrays)
    memory, output = scan(step, first_memory(key, value, state), tuple(tokens))
    return rearrange(output, "l b h v -> b h l v").astype(query.dtype), memory


@checked
def chunked_state_space(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    value: Float[Array, "batch heads length value_dim"],
    log_decay: Float[Array, "batch heads length"],
    *,
    state: Float[Array, "batch heads key_dim value_dim"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Array, "batch heads length value_dim"], Float[Array, "batch heads key_dim value_dim"]]:
    """Chunked form of `recurrent_state_space`: parallel within a chunk, one scan step per chunk (section 6).

    Args:
        query, key, value, log_decay, state: as in `recurrent_state_space`.
        chunk_size: number of tokens in a chunk.
    """
    arrays = (query, key, value, log_decay)
    q, k, v, g = (split_chunks(at_least_float32(x), chunk_size) for x in arrays)
    between = decay_matrix(g)  # chunks batch heads size size
    since_start = jnp.exp(jnp.cumsum(g, axis=-1))[..., None]  # chunks batch heads size 1
    written = einsum("...kd,...kv->...dv", between[..., -1, :, None] * k, v)  # ... key_dim value_dim
    decay = since_start[..., -1:, :]  # chunks batch heads 1 1
    within = einsum("...qk,...kv->...qv", between * einsum("...qd,...kd->...qk", q, k), v)

    def step(memory: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        decay, written = chunk
        return decay * memory + written, memory

    memory, before = scan(step, first_memory(key, value, state), (decay, written), length=query.shape[2])
    output = within + einsum("...qd,...dv->...qv", since_start * q, before)
    return join_chunks(output, query.shape[2]).astype(query.dtype), memory


@checked
def parallel_state_space(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    value: Float[Array, "batch heads length value_dim"],
    log_decay: Float[Array, "batch heads length"],
) -> Float[Array, "batch heads length value_dim"]:
    """Parallel form of `recurrent_state_space` without an earlier state, as attention: (C Bᵀ ⊙ Γ) V."""
    weights = state_space_weights(query, key, log_decay)
    return einsum("bhqk,bhkv->bhqv", weights, at_least_float32(value)).astype(query.dtype)


@checked
def state_space_weights(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    log_decay: Float[Array, "batch heads length"],
) -> Float[Array, "batch heads length length"]:
    """Attention weights C Bᵀ ⊙ Γ: the matrix that maps values to outputs, in at least float32."""
    query, key, log_decay = (at_least_float32(x) for x in (query, key, log_decay))
    return decay_matrix(log_decay) * einsum("bhqd,bhkd->bhqk", query, key)


@checked
class Mamba2(nnx.Module):
    """Mamba-2 layer: decaying linear attention with a short convolution and a gated, grouped norm (Dao & Gu 2024).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads, each with its own recurrent state.
        head_dim: value features of a head; None for `2 embed_dim / num_heads`.
        state_dim: query and key features (C and B) of a head.
        num_groups: number of C and B heads, each shared by `num_heads / num_groups` heads; also the number of groups of
            the output norm.
        conv_width: width of the short convolution, in tokens.
        chunk_size: number of tokens in a chunk.
        bias: whether the projections have biases.
        conv_bias: whether the convolution has a bias.
        eps: constant added to the mean square in the output norm.
        min_step: smallest time step Δ, as in Nemotron-H.
        out_bias: whether the output projection has a bias; None for `bias`.
        norm_order: `"after_gate"` to normalise the gated output, `"before_gate"` to normalise the output and then
            multiply by the gate, or None for a gate without a norm, as in Falcon-H1.
        part_scales: factors on the five parts of the projection: the gate, x, B, C and Δ, as in Falcon-H1; None for 1.

    Raises:
        ValueError: sizes that do not divide, or are below 1; an unknown `norm_order`, or not five `part_scales`.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        state_dim: int = 128,
        num_groups: int = 1,
        conv_width: int = 4,
        chunk_size: int = 64,
        bias: bool = False,
        conv_bias: bool = True,
        eps: float = 1e-5,
        min_step: float = 0.0,
        out_bias: bool | None = None,
        norm_order: str | None = "after_gate",
        part_scales: tuple[float, ...] | None = None,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(state_dim=state_dim, conv_width=conv_width, chunk_size=chunk_size)
        check_divisible(num_heads=num_heads, num_groups=num_groups)
        check_gated_norm(norm_order)
        if part_scales is not None and len(part_scales) != 5:
            raise ValueError(f"part_scales must be five numbers, got {len(part_scales)}")
        if head_dim is None:
            check_divisible(inner_dim=2 * embed_dim, num_heads=num_heads)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = 2 * embed_dim // num_heads if head_dim is None else head_dim
        self.state_dim = state_dim
        self.num_groups = num_groups
        self.conv_width = conv_width
        self.chunk_size = chunk_size
        self.eps = eps
        self.min_step = min_step
        self.norm_order = norm_order
        self.part_scales = part_scales
        self.values, self.keys = num_heads * self.head_dim, num_groups * state_dim
        features = self.values + 2 * self.keys
        self.in_proj = linear(embed_dim, self.values + features + num_heads, bias=bias, **factory)
        self.conv = conv1d(features, features, conv_width, groups=features, bias=conv_bias, **factory)
        self.A_log = uniform_parameter(num_heads, between=RATES, through=jnp.log, **factory)
        self.dt_bias = uniform_parameter(num_heads, between=LOG_STEPS, through=step_bias, **factory)
        self.D = constant_parameter(num_heads, value=1.0, **factory)
        self.norm_scale = (
            None if norm_order is None else constant_parameter(self.values, value=1.0, **factory)
        )
        self.out_proj = linear(self.values, embed_dim, bias=bias if out_bias is None else out_bias, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        state: ConvolvedState | None = None,
        need_weights: bool = False,
    ) -> RecurrentOutput:
        """Apply a causal Mamba-2 layer.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, False for padding; None for no mask. Masked tokens leave the
                state unchanged and enter the short convolution as zeros.
            state: recurrent state of the earlier tokens; None for an empty one.
            need_weights: whether to return the attention weights, the matrix that maps x after the convolution to
                outputs; it includes Δ and D.

        Returns:
            Output `(batch, length, embed_dim)`, the state after the last token, and weights
            `(batch, heads, length, length)` or None.
        """
        memory_shape = (self.num_heads, self.state_dim, self.head_dim)
        features = self.values + 2 * self.keys
        check_read(x, self.embed_dim, mask, state, memory_shape, (self.conv_width - 1, features))
        projected = visible_only(self.in_proj(visible_only(x, mask)), mask)  # a bias would fill the padding
        if self.part_scales is not None:
            sizes = (self.values, self.values, self.keys, self.keys, self.num_heads)
            projected = scaled_parts(projected, sizes, self.part_scales)
        z, mixed, dt = cut(projected, self.values, features, self.num_heads)
        mixed, inputs = short_convolution(self.conv, mixed, state, self.conv_width)
        value, key, query = cut(visible_only(mixed, mask), self.values, self.keys, self.keys)
        value = at_least_float32(split_heads(value, self.head_dim))  # batch heads length head_dim
        key = repeat_heads(split_heads(key, self.state_dim), self.num_heads)
        query = at_least_float32(repeat_heads(split_heads(query, self.state_dim), self.num_heads))
        step = time_step(dt, self.dt_bias[...]).clip(self.min_step)  # batch length heads
        step = rearrange(visible_only(step, mask), "b l h -> b h l")
        log_decay = -jnp.exp(at_least_float32(self.A_log[...]))[None, :, None] * step  # batch heads length
        skip = at_least_float32(self.D[...])[None, :, None, None]  # 1 heads 1 1
        memory = None if state is None else state.memory
        written = step[..., None] * value  # batch heads length head_dim
        if x.shape[1] == 1:
            heads, memory = recurrent_state_space(query, key, written, log_decay, state=memory)
        else:
            heads, memory = chunked_state_space(
                query, key, written, log_decay, state=memory, chunk_size=self.chunk_size
            )
        weights = None
        if need_weights:
            each = jnp.eye(x.shape[1], dtype=step.dtype)  # length length
            weights = state_space_weights(query, key, log_decay) * step[:, :, None] + skip * each[None, None]
        heads = heads + skip * value  # batch heads length head_dim
        scale = None if self.norm_scale is None else at_least_float32(self.norm_scale[...])
        heads = gated_norm(
            merge_heads(heads), z, scale, self.num_groups, self.eps, self.norm_order
        )  # batch length heads·head_dim
        heads = heads.astype(x.dtype)
        return RecurrentOutput(self.out_proj(heads), ConvolvedState(memory, inputs), weights)


def main() -> None:
    """Show a decaying state, and the attention weights of a layer."""
    from jax_attention.demonstration import draw, fill, show

    key = jnp.asarray([[[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]])  # the third key equals the first
    value = jnp.asarray([[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]])
    log_decay = jnp.log(jnp.asarray([[[1.0, 1.0, 0.1]]]))
    _, memory = recurrent_state_space(key, key, value, log_decay)
    print("Before the third token, the state decays by a factor of 0.1; then the token is added:")
    print(" ".join(f"{number:.3f}" for row in memory[0, 0].tolist() for number in row))

    words = ["the", "cat", "sat", "still"]
    layer = fill(Mamba2(embed_dim=6, num_heads=2, state_dim=3, rngs=nnx.Rngs(0)))
    output, _, weights = layer(draw(1, 4, 6), need_weights=True)
    show("Mamba2", AttentionOutput(output, weights), words, words)


if __name__ == "__main__":
    main()
