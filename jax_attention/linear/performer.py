r"""Performer: linear attention with random features of the softmax kernel (FAVOR+, Choromanski et al. 2020).

$$ o_i = \frac{\phi(q_i)^\top S_i}{\phi(q_i)^\top z_i}, \qquad
   \phi(x) = \frac{1}{\sqrt{m}} \exp\!\left(\omega^\top x / d^{1/4} - |x|^2 / 2 \sqrt{d}\right) $$

One change from `LinearAttention`: φ uses m random directions ω, orthogonal in groups of d. The expected value of
φ(q)·φ(k) is exp(q·k / √d), so the output approaches softmax attention as m grows.

To avoid overflow, the largest exponent of a query is subtracted from all of its features, and the largest exponent of
all keys so far from all key features. Both factors cancel between numerator and denominator, so no constant needs to be
added to a feature or to the denominator. (performer-pytorch adds 1e-4 to each feature after the subtraction. Its
factors then do not cancel, and outputs depend on later keys.)

| symbol | argument           | shape                                 |
|--------|--------------------|---------------------------------------|
| ω      | `features`         | `(features, head_dim)`                |
| m      | `num_features`     |                                       |
| log φ  | `query`, `key`     | `(batch, heads, length, features)`    |
| S      | `state.memory`     | `(batch, heads, features, value_dim)` |
| z      | `state.normaliser` | `(batch, heads, features)`            |
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.checks import check_divisible
from jax_attention.layers import Factory, linear, normal_buffer
from jax_attention.linear.random_features import (
    divide,
    empty_exponent,
    log_softmax_features,
    orthogonal_features,
    over_largest,
    query_features,
)
from jax_attention.linear.states import check_one_way, check_read, first_memory, hide
from jax_attention.ops import at_least_float32, join_chunks, merge_heads, scan, split_chunks, split_heads
from jax_attention.outputs import AttentionOutput, RecurrentOutput


class PerformerState(NamedTuple):
    """Recurrent state of a Performer, in at least float32.

    Attributes:
        memory: sum of exp(log φ(k) - exponent) vᵀ over the tokens, `(batch, heads, features, value_dim)`.
        normaliser: sum of exp(log φ(k) - exponent) over the tokens, `(batch, heads, features)`.
        exponent: largest log φ(k) of all tokens, `(batch, heads)`.
    """

    memory: Float[Array, "batch heads features value_dim"]
    normaliser: Float[Array, "batch heads features"]
    exponent: Float[Array, "batch heads"]


@checked
def recurrent_performer(
    query: Float[Array, "batch heads length features"],
    key: Float[Array, "batch heads length features"],
    value: Float[Array, "batch heads length value_dim"],
    *,
    state: PerformerState | None = None,
) -> tuple[Float[Array, "batch heads length value_dim"], PerformerState]:
    """Recurrent form of linear attention with log-features, one token per step.

    Args:
        query: log-features log φ(q), `(batch, heads, length, features)`.
        key: log-features log φ(k), `(batch, heads, length, features)`; -inf for masked keys.
        value: values, `(batch, heads, length, value_dim)`.
        state: recurrent state of the earlier tokens; None for an empty one.

    Returns:
        Output `(batch, heads, length, value_dim)`, in the dtype of `value` and zero for fully masked rows, and the
        state after the last token.
    """

    def step(state: PerformerState, token: tuple[Array, ...]) -> tuple[PerformerState, Array]:
        query, key, value = (x[:, :, None] for x in token)  # batch heads 1 features, or value_dim
        key, exponent = over_largest(key, state.exponent)
        state = moved(state, exponent)
        memory = state.memory + einsum("bhkf,bhkv->bhfv", key, value)
        normaliser = state.normaliser + key[:, :, 0]  # batch heads features
        output = einsum("bhqf,bhfv->bhqv", query, memory)
        output = divide(output, einsum("bhqf,bhf->bhq", query, normaliser))
        return PerformerState(memory, normaliser, state.exponent), output[:, :, 0]

    arrays = (query_features(query), at_least_float32(key), at_least_float32(value))
    tokens = (rearrange(x, "b h l d -> l b h d") for x in arrays)
    last, output = scan(step, first_sums(key, value, state), tuple(tokens))
    return rearrange(output, "l b h v -> b h l v").astype(value.dtype), last


@checked
def chunked_performer(
    query: Float[Array, "batch heads length features"],
    key: Float[Array, "batch heads length features"],
    value: Float[Array, "batch heads length value_dim"],
    *,
    state: PerformerState | None = None,
    chunk_size: int = 64,
) -> tuple[Float[Array, "batch heads length value_dim"], PerformerState]:
    """Chunked form of `recurrent_performer`, one chunk per step.

    Args:
        query, key, value, state: as in `recurrent_performer`.
        chunk_size: number of tokens in a chunk.
    """

    def step(state: PerformerState, chunk: tuple[Array, ...]) -> tuple[PerformerState, Array]:
        query, key, value = chunk  # batch heads size features, or value_dim
        key, exponent = over_largest(key, state.exponent)
        state = moved(state, exponent)
        scores = jnp.tril(einsum("bhqf,bhkf->bhqk", query, key))  # batch heads size size
        output = einsum("bhqk,bhkv->bhqv", scores, value)  # batch heads size value_dim
        output = output + einsum("bhqf,bhfv->bhqv", query, state.memory)
        total = scores.sum(-1) + einsum("bhqf,bhf->bhq", query, state.normaliser)  # batch heads size
        memory = state.memory + einsum("bhkf,bhkv->bhfv", key, value)
        last = PerformerState(memory, state.normaliser + key.sum(-2), state.exponent)
        return last, divide(output, total)

    keys = split_chunks(at_least_float32(key), chunk_size, fill=-jnp.inf)
    queries, values = (split_chunks(x, chunk_size) for x in (query_features(query), at_least_float32(value)))
    last, output = scan(step, first_sums(key, value, state), (queries, keys, values), length=query.shape[2])
    return join_chunks(output, query.shape[2]).astype(value.dtype), last


@checked
def bidirectional_performer(
    query: Float[Array, "batch heads length features"],
    key: Float[Array, "batch heads length features"],
    value: Float[Array, "batch heads length value_dim"],
) -> Float[Array, "batch heads length value_dim"]:
    """Performer attention without a causal mask; arguments as in `recurrent_performer`."""
    query = query_features(query)
    key, _ = over_largest(at_least_float32(key), None)
    memory = einsum("bhkf,bhkv->bhfv", key, at_least_float32(value))  # batch heads features value_dim
    output = einsum("bhqf,bhfv->bhqv", query, memory)  # batch heads length value_dim
    return divide(output, einsum("bhqf,bhf->bhq", query, key.sum(-2))).astype(value.dtype)


@checked
def performer_weights(
    query: Float[Array, "batch heads length features"],
    key: Float[Array, "batch heads length features"],
    *,
    state: PerformerState | None = None,
    is_causal: bool = True,
) -> Float[Array, "batch heads length length"]:
    """Attention weights of a Performer: φ(q_i)·φ(k_j) / φ(q_i)·z_i, in at least float32.

    Args:
        query, key, state: as in `recurrent_performer`; with a state, rows sum to less than 1.
        is_causal: whether each position attends only to itself and earlier positions.
    """
    query = query_features(query)
    before = None if state is None else PerformerState(*(x.astype(query.dtype) for x in state))
    key, exponent = over_largest(at_least_float32(key), None if before is None else before.exponent)
    scores = einsum("bhqf,bhkf->bhqk", query, key)  # batch heads length length
    scores = jnp.tril(scores) if is_causal else scores
    total = scores.sum(-1)  # batch heads length
    if before is not None:
        total = total + einsum("bhqf,bhf->bhq", query, moved(before, exponent).normaliser)
    return divide(scores, total)


def moved(state: PerformerState, exponent: Float[Array, "batch heads"]) -> PerformerState:
    """Rescale the state to another exponent."""
    by = jnp.exp(state.exponent - exponent)  # batch heads
    return PerformerState(state.memory * by[..., None, None], state.normaliser * by[..., None], exponent)


def first_sums(
    key: Float[Array, "batch heads length features"],
    value: Float[Array, "batch heads length value_dim"],
    state: PerformerState | None,
) -> PerformerState:
    """Initial state in at least float32: the given one, or an empty one."""
    memory = first_memory(key, value, None if state is None else state.memory)
    if state is not None:
        return PerformerState(memory, *(x.astype(memory.dtype) for x in state[1:]))
    zeros = jnp.zeros(memory.shape[:-1], dtype=memory.dtype)
    return PerformerState(memory, zeros, jnp.full_like(zeros[..., 0], empty_exponent()))


@checked
class PerformerAttention(nnx.Module):
    """Multi-head linear attention with random features of the softmax kernel (FAVOR+, Choromanski et al. 2020).

    The buffer `features` is sampled at construction, and is saved and converted with the parameters.

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        num_features: number of random features, shared by the heads; None for `head_dim log(head_dim)`.
        is_causal: whether each position attends only to itself and earlier positions; a state needs it.
        chunk_size: number of tokens in a chunk.
        bias: whether the projections have biases.

    Raises:
        ValueError: sizes that do not divide, or are below 1.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        num_features: int | None = None,
        is_causal: bool = True,
        chunk_size: int = 64,
        bias: bool = True,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        head_dim = embed_dim // num_heads if head_dim is None else head_dim
        num_features = max(1, int(head_dim * math.log(head_dim))) if num_features is None else num_features
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.num_features = num_features
        self.is_causal = is_causal
        self.chunk_size = chunk_size
        self.q_proj = linear(embed_dim, num_heads * head_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, num_heads * head_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, num_heads * head_dim, bias=bias, **factory)
        self.out_proj = linear(num_heads * head_dim, embed_dim, bias=bias, **factory)
        self.features = normal_buffer(num_features, head_dim, **factory)
        self.features[...] = orthogonal_features(self.features[...])

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        state: PerformerState | None = None,
        need_weights: bool = False,
    ) -> RecurrentOutput:
        """Apply Performer attention; arguments, result and errors as in `LinearAttention`."""
        memory_shape = (self.num_heads, self.num_features, self.head_dim)
        check_read(x, self.embed_dim, mask, state, memory_shape, memory_shape[:2], memory_shape[:1])
        check_one_way(state, self.is_causal)
        features = self.features[...]
        query = log_softmax_features(split_heads(self.q_proj(x), self.head_dim), features)
        key = log_softmax_features(split_heads(self.k_proj(x), self.head_dim), features)
        key = hide(key, mask, -jnp.inf)  # batch heads length features
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        last = None
        if not self.is_causal:
            heads = bidirectional_performer(query, key, value)
        elif x.shape[1] == 1:
            heads, last = recurrent_performer(query, key, value, state=state)
        else:
            heads, last = chunked_performer(query, key, value, state=state, chunk_size=self.chunk_size)
        weights = (
            performer_weights(query, key, state=state, is_causal=self.is_causal) if need_weights else None
        )
        return RecurrentOutput(self.out_proj(merge_heads(heads)), last, weights)


def main() -> None:
    """Show the weights of softmax attention and their approximation by random features."""
    from jax_attention.demonstration import draw, show
    from jax_attention.ops import attend

    words = ["the", "cat", "sat"]
    query, key, value = draw(1, 1, 3, 4), draw(1, 1, 3, 4, seed=1), draw(1, 1, 3, 4, seed=2)
    output, weights = attend(query, key, value, is_causal=True)
    show("softmax attention", AttentionOutput(output[:, 0], weights), words, words)
    for m in (4, 1024):
        features = orthogonal_features(draw(m, 4, seed=3))
        logs = log_softmax_features(query, features), log_softmax_features(key, features)
        output, _ = chunked_performer(*logs, value)
        found = AttentionOutput(output[:, 0], performer_weights(*logs))
        show(f"Performer, {m} features", found, words, words)


if __name__ == "__main__":
    main()
