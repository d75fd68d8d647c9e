r"""DeltaNet: linear attention whose state is updated by the delta rule (Schlag et al. 2021; Yang et al. 2024).

$$ S_t = S_{t-1} + \beta_t k_t \left(v_t - S_{t-1}^\top k_t\right)^\top, \qquad o_t = S_t^\top q_t $$

One change from `LinearAttention`: the update writes only the difference between v_t and the value that the state
returns for k_t. With β_t = 1 the new value replaces the old one; with β_t = 0 the state does not change. The update is
one step of gradient descent on |Sᵀk - v|² / 2 with step size β (Widrow & Hoff 1960).

There are three equivalent forms: recurrent, one token per step; chunked, where the updates of a chunk solve one
triangular system (the WY form of a product of Householder matrices); and parallel, as a matrix that maps values to
outputs.

| symbol | argument | shape                                |
|--------|----------|--------------------------------------|
| S      | `state`  | `(batch, heads, key_dim, value_dim)` |
| β      | `beta`   | `(batch, heads, length)`             |
"""

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.activations import sigmoid
from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.checks import check_divisible, check_positive
from jax_attention.layers import Factory, conv1d, linear
from jax_attention.linear.short_conv import (
    ConvolvedState,
    cut,
    short_convolution,
    visible_only,
)
from jax_attention.linear.states import check_read, first_memory
from jax_attention.norms import normalise_wide, rms_norm
from jax_attention.ops import (
    at_least_float32,
    join_chunks,
    merge_heads,
    scan,
    solve_unit_lower,
    split_chunks,
    split_heads,
)
from jax_attention.outputs import AttentionOutput, RecurrentOutput


@checked
def unit_length(x: Float[Array, "... dim"], eps: float = 1e-6) -> Float[Array, "... dim"]:
    """Normalise vectors to unit length: x / √(|x|² + ε), in at least float32; zero vectors stay zero."""
    x = at_least_float32(x)
    return x / jnp.sqrt((x * x).sum(-1)[..., None] + eps)


@checked
def recurrent_delta_rule(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    value: Float[Array, "batch heads length value_dim"],
    beta: Float[Array, "batch heads length"],
    *,
    state: Float[Array, "batch heads key_dim value_dim"] | None = None,
) -> tuple[Float[Array, "batch heads length value_dim"], Float[Array, "batch heads key_dim value_dim"]]:
    """Recurrent form of the delta rule, one token per step.

    Args:
        query: queries, `(batch, heads, length, key_dim)`.
        key: keys, `(batch, heads, length, key_dim)`, of norm at most 1.
        value: values, `(batch, heads, length, value_dim)`.
        beta: step sizes between 0 and 1, `(batch, heads, length)`.
        state: recurrent state of the earlier tokens; None for an empty one.

    Returns:
        Output `(batch, heads, length, value_dim)`, in the dtype of `query`, and the state after the last token.
    """

    def step(memory: Array, token: tuple[Array, ...]) -> tuple[Array, Array]:
        query, key, value, beta = token  # batch heads key_dim, or value_dim, or nothing
        known = einsum("bhdv,bhd->bhv", memory, key)  # batch heads value_dim
        change = beta[..., None] * (value - known)  # batch heads value_dim
        memory = memory + einsum("bhd,bhv->bhdv", key, change)  # batch heads key_dim value_dim
        return memory, einsum("bhdv,bhd->bhv", memory, query)

    tokens = (rearrange(at_least_float32(x), "b h l ... -> l b h ...") for x in (query, key, value, beta))
    memory, output = scan(step, first_memory(key, value, state), tuple(tokens))
    return rearrange(output, "l b h v -> b h l v").astype(query.dtype), memory


@checked
def chunked_delta_rule(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    value: Float[Array, "batch heads length value_dim"],
    beta: Float[Array, "batch heads length"],
    *,
    state: Float[Array, "batch heads key_dim value_dim"] | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Array, "batch heads length value_dim"], Float[Array, "batch heads key_dim value_dim"]]:
    """Chunked form of `recurrent_delta_rule`, one chunk per step (Yang et al. 2024, section 3).

    In a chunk that starts with the state S, the written differences U solve (I + tril(diag(β) K Kᵀ, -1)) U = diag(β)
    (V - K S).

    Args:
        query, key, value, beta, state: as in `recurrent_delta_rule`.
        chunk_size: number of tokens in a chunk.
    """
    arrays = (query, key, value, beta)
    q, k, v, b = (
        split_chunks(at_least_float32(x), chunk_size) for x in arrays
    )  # chunks batch heads size ...
    changes = _changes(k, b, jnp.concatenate([v, k], axis=-1))  # chunks batch heads size value_dim+key_dim
    written, erased = changes[..., : v.shape[-1]], changes[..., v.shape[-1] :]
    scores = jnp.tril(einsum("...qd,...kd->...qk", q, k))  # chunks batch heads size size

    def step(memory: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        query, key, scores, written, erased = chunk
        change = written - einsum("bhkd,bhdv->bhkv", erased, memory)  # batch heads size value_dim
        output = einsum("bhqd,bhdv->bhqv", query, memory)  # batch heads size value_dim
        output = output + einsum("bhqk,bhkv->bhqv", scores, change)
        return memory + einsum("bhkd,bhkv->bhdv", key, change), output

    memory, output = scan(
        step, first_memory(key, value, state), (q, k, scores, written, erased), length=query.shape[2]
    )
    return join_chunks(output, query.shape[2]).astype(query.dtype), memory


@checked
def delta_rule_weights(
    query: Float[Array, "batch heads length key_dim"],
    key: Float[Array, "batch heads length key_dim"],
    beta: Float[Array, "batch heads length"],
) -> Float[Array, "batch heads length length"]:
    """Attention weights of the delta rule: the matrix that maps values to outputs, in at least float32.

    The matrix is tril(Q Kᵀ) (I + tril(diag(β) K Kᵀ, -1))⁻¹ diag(β). Its rows need not sum to 1. A weight can be
    negative where a later token has erased a value.
    """
    query, key, beta = (at_least_float32(x) for x in (query, key, beta))
    scores = jnp.tril(einsum("bhqd,bhkd->bhqk", query, key))  # batch heads length length
    each = jnp.eye(key.shape[2], dtype=key.dtype)
    each = jnp.broadcast_to(each, scores.shape)  # batch heads length length
    return einsum("bhql,bhlk->bhqk", scores, _changes(key, beta, each))


def _changes(
    key: Float[Array, "*batch length key_dim"],
    beta: Float[Array, "*batch length"],
    value: Float[Array, "*batch length value_dim"],
) -> Float[Array, "*batch length value_dim"]:
    """Solve for the differences written in each step, starting from an empty state."""
    overlap = beta[..., None] * einsum("...qd,...kd->...qk", key, key)  # ... length length
    return solve_unit_lower(overlap, beta[..., None] * value)


@checked
class DeltaNet(nnx.Module):
    """Linear attention with the delta rule and short convolutions (Schlag et al. 2021; Yang et al. 2024).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads, each with its own recurrent state.
        head_dim: query and key features of a head; None for `embed_dim / num_heads`.
        value_dim: value features of a head; None for `head_dim`.
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
        conv_width: int = 4,
        chunk_size: int = 64,
        eps: float = 1e-5,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(conv_width=conv_width, chunk_size=chunk_size)
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.value_dim = self.head_dim if value_dim is None else value_dim
        self.conv_width = conv_width
        self.chunk_size = chunk_size
        self.keys, self.values = num_heads * self.head_dim, num_heads * self.value_dim
        self.q_proj = linear(embed_dim, self.keys, bias=False, **factory)
        self.k_proj = linear(embed_dim, self.keys, bias=False, **factory)
        self.v_proj = linear(embed_dim, self.values, bias=False, **factory)
        self.b_proj = linear(embed_dim, num_heads, bias=False, **factory)
        features = 2 * self.keys + self.values
        self.conv = conv1d(features, features, conv_width, groups=features, bias=False, **factory)
        self.norm = rms_norm(self.value_dim, eps=eps, **factory)
        self.out_proj = linear(self.values, embed_dim, bias=False, **factory)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        state: ConvolvedState | None = None,
        need_weights: bool = False,
    ) -> RecurrentOutput:
        """Apply causal linear attention with the delta rule.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, False for padding; None for no mask. Masked tokens leave the
                state unchanged and enter the short convolution as zeros.
            state: recurrent state of the earlier tokens; None for an empty one.
            need_weights: whether to return the attention weights, the matrix that maps values to outputs.

        Returns:
            Output `(batch, length, embed_dim)`, the state after the last token, and weights
            `(batch, heads, length, length)` or None.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        memory_shape = (self.num_heads, self.head_dim, self.value_dim)
        inputs_shape = (self.conv_width - 1, 2 * self.keys + self.values)
        check_read(x, self.embed_dim, mask, state, memory_shape, inputs_shape)
        x = visible_only(x, mask)
        features = jnp.concatenate([self.q_proj(x), self.k_proj(x), self.v_proj(x)], axis=-1)
        features, inputs = short_convolution(self.conv, features, state, self.conv_width)
        query, key, value = cut(visible_only(features, mask), self.keys, self.keys, self.values)
        query = unit_length(split_heads(query, self.head_dim)) * self.head_dim**-0.5
        key = unit_length(split_heads(key, self.head_dim))  # batch heads length head_dim
        value = at_least_float32(split_heads(value, self.value_dim))  # batch heads length value_dim
        beta = visible_only(sigmoid(at_least_float32(self.b_proj(x))), mask)
        beta = rearrange(beta, "b l h -> b h l")
        memory = None if state is None else state.memory
        if x.shape[1] == 1:
            heads, memory = recurrent_delta_rule(query, key, value, beta, state=memory)
        else:
            heads, memory = chunked_delta_rule(
                query, key, value, beta, state=memory, chunk_size=self.chunk_size
            )
        weights = delta_rule_weights(query, key, beta) if need_weights else None
        heads = merge_heads(normalise_wide(self.norm, heads).astype(x.dtype))  # batch length heads·value_dim
        return RecurrentOutput(self.out_proj(heads), ConvolvedState(memory, inputs), weights)


def main() -> None:
    """Show a state whose value is overwritten, and the attention weights of a layer."""
    from jax_attention.demonstration import draw, fill, show

    key = jnp.asarray([[[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]]])  # the third key equals the first
    value = jnp.asarray([[[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]]])
    beta = jnp.asarray([[[1.0, 1.0, 0.5]]])
    _, memory = recurrent_delta_rule(key, key, value, beta)
    print("The state maps the first key to 1, 2; beta = 0.5 moves this halfway to 5, 6:")
    print(" ".join(f"{number:.3f}" for row in memory[0, 0].tolist() for number in row))

    words = ["the", "cat", "sat", "still"]
    layer = fill(DeltaNet(embed_dim=6, num_heads=2, rngs=nnx.Rngs(0)))
    output, _, weights = layer(draw(1, 4, 6), need_weights=True)
    show("DeltaNet", AttentionOutput(output, weights), words, words)


if __name__ == "__main__":
    main()
