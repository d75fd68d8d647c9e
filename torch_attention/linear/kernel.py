r"""Linear attention: a feature map replaces the softmax and gives a fixed-size state (Katharopoulos et al. 2020).

$$ o_i = \frac{\phi(q_i)^\top S_i}{\phi(q_i)^\top z_i + \epsilon}, \qquad
   S_i = S_{i-1} + \phi(k_i) v_i^\top, \quad z_i = z_{i-1} + \phi(k_i), \qquad \phi(x) = \mathrm{elu}(x) + 1 $$

One change from `CausalSelfAttention`: φ(q)·φ(k) replaces exp(q·k). The sum over the keys is then computed once for all
queries, so time is linear in the length, and the state of a decoder does not grow.

There are three equivalent forms: recurrent, one token per step; chunked, with matrix products within a chunk and one
step per chunk; and parallel, as a matrix that maps values to outputs, quadratic in the length.

| symbol | argument           | shape                                 |
|--------|--------------------|---------------------------------------|
| φ(q)   | `query`            | `(batch, heads, length, features)`    |
| φ(k)   | `key`              | `(batch, heads, length, features)`    |
| S      | `state.memory`     | `(batch, heads, features, value_dim)` |
| z      | `state.normaliser` | `(batch, heads, features)`            |
| ε      | `eps`              |                                       |
"""

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.arrays import einsum
from torch_attention.checks import check_above_zero, check_divisible, check_positive
from torch_attention.layers import Factory, linear
from torch_attention.linear.states import check_one_way, check_read, first_memory, hide
from torch_attention.ops import at_least_float32, join_chunks, merge_heads, scan, split_chunks, split_heads
from torch_attention.outputs import AttentionOutput, RecurrentOutput


class LinearState(NamedTuple):
    """Recurrent state of linear attention, in at least float32.

    Attributes:
        memory: sum of φ(k) vᵀ over the tokens, `(batch, heads, features, value_dim)`.
        normaliser: sum of φ(k) over the tokens, `(batch, heads, features)`.
    """

    memory: Float[Tensor, "batch heads features value_dim"]
    normaliser: Float[Tensor, "batch heads features"]


@checked
def elu_features(x: Float[Tensor, "*axes"]) -> Float[Tensor, "*axes"]:
    """Positive feature map φ(x) = elu(x) + 1, in at least float32: x + 1 for x > 0, else exp(x)."""
    x = at_least_float32(x)
    return torch.where(x > 0, x + 1.0, torch.exp(torch.where(x > 0, 0.0, x)))


@checked
def recurrent_linear_attention(
    query: Float[Tensor, "batch heads length features"],
    key: Float[Tensor, "batch heads length features"],
    value: Float[Tensor, "batch heads length value_dim"],
    *,
    state: LinearState | None = None,
    eps: float = 1e-6,
) -> tuple[Float[Tensor, "batch heads length value_dim"], LinearState]:
    """Recurrent form of linear attention, one token per step.

    Args:
        query: query features φ(q), non-negative, `(batch, heads, length, features)`.
        key: key features φ(k), non-negative, `(batch, heads, length, features)`; zeros for masked keys.
        value: values, `(batch, heads, length, value_dim)`.
        state: recurrent state of the earlier tokens; None for an empty one.
        eps: constant added to the denominator.

    Returns:
        Output `(batch, heads, length, value_dim)`, in the dtype of `value`, and the state after the last token.
    """

    def step(state: LinearState, token: tuple[Tensor, ...]) -> tuple[LinearState, tuple[Tensor, Tensor]]:
        query, key, value = token  # batch heads features, or value_dim
        memory = state.memory + einsum("bhf,bhv->bhfv", key, value)
        normaliser = state.normaliser + key
        output = einsum("bhf,bhfv->bhv", query, memory)  # batch heads value_dim
        return LinearState(memory, normaliser), (output, (query * normaliser).sum(-1))

    tokens = (rearrange(at_least_float32(x), "b h l ... -> l b h ...") for x in (query, key, value))
    last, (output, total) = scan(step, first_sums(key, value, state), tuple(tokens))
    output = output / (total[..., None] + eps)
    return rearrange(output, "l b h v -> b h l v").to(value.dtype), last


@checked
def chunked_linear_attention(
    query: Float[Tensor, "batch heads length features"],
    key: Float[Tensor, "batch heads length features"],
    value: Float[Tensor, "batch heads length value_dim"],
    *,
    state: LinearState | None = None,
    chunk_size: int = 64,
    eps: float = 1e-6,
) -> tuple[Float[Tensor, "batch heads length value_dim"], LinearState]:
    """Chunked form of `recurrent_linear_attention`, one chunk per step.

    Args:
        query, key, value, state, eps: as in `recurrent_linear_attention`.
        chunk_size: number of tokens in a chunk.
    """

    def step(state: LinearState, chunk: tuple[Tensor, ...]) -> tuple[LinearState, tuple[Tensor, Tensor]]:
        query, key, value = chunk  # batch heads size features, or value_dim
        scores = torch.tril(einsum("bhqf,bhkf->bhqk", query, key))  # batch heads size size
        output = einsum("bhqk,bhkv->bhqv", scores, value)  # batch heads size value_dim
        output = output + einsum("bhqf,bhfv->bhqv", query, state.memory)
        total = scores.sum(-1) + einsum("bhqf,bhf->bhq", query, state.normaliser)  # batch heads size
        memory = state.memory + einsum("bhkf,bhkv->bhfv", key, value)
        return LinearState(memory, state.normaliser + key.sum(-2)), (output, total)

    chunks = (split_chunks(at_least_float32(x), chunk_size) for x in (query, key, value))
    last, (output, total) = scan(step, first_sums(key, value, state), tuple(chunks), length=query.shape[2])
    output = output / (total[..., None] + eps)
    return join_chunks(output, query.shape[2]).to(value.dtype), last


@checked
def bidirectional_linear_attention(
    query: Float[Tensor, "batch heads length features"],
    key: Float[Tensor, "batch heads length features"],
    value: Float[Tensor, "batch heads length value_dim"],
    *,
    eps: float = 1e-6,
) -> Float[Tensor, "batch heads length value_dim"]:
    """Linear attention without a causal mask; arguments as in `recurrent_linear_attention`."""
    query, key, wide = (at_least_float32(x) for x in (query, key, value))
    memory = einsum("bhkf,bhkv->bhfv", key, wide)  # batch heads features value_dim
    total = einsum("bhqf,bhf->bhq", query, key.sum(-2))  # batch heads length
    output = einsum("bhqf,bhfv->bhqv", query, memory) / (total[..., None] + eps)
    return output.to(value.dtype)


@checked
def linear_attention_weights(
    query: Float[Tensor, "batch heads length features"],
    key: Float[Tensor, "batch heads length features"],
    *,
    state: LinearState | None = None,
    is_causal: bool = True,
    eps: float = 1e-6,
) -> Float[Tensor, "batch heads length length"]:
    """Attention weights of linear attention: φ(q_i)·φ(k_j) / (φ(q_i)·z_i + ε), in at least float32.

    Args:
        query, key, state, eps: as in `recurrent_linear_attention`; with a state, rows sum to less than 1.
        is_causal: whether each position attends only to itself and earlier positions.
    """
    query, key = at_least_float32(query), at_least_float32(key)
    scores = einsum("bhqf,bhkf->bhqk", query, key)  # batch heads length length
    scores = torch.tril(scores) if is_causal else scores
    total = scores.sum(-1)[..., None]  # batch heads length 1
    if state is not None:
        total = total + einsum("bhqf,bhf->bhq", query, state.normaliser.to(query.dtype))[..., None]
    return scores / (total + eps)


@checked
def first_sums(
    key: Float[Tensor, "batch heads length features"],
    value: Float[Tensor, "batch heads length value_dim"],
    state: LinearState | None,
) -> LinearState:
    """Initial state in at least float32: the given one, or zeros."""
    memory = first_memory(key, value, None if state is None else state.memory)
    if state is None:
        return LinearState(memory, torch.zeros(memory.shape[:-1], dtype=memory.dtype, device=memory.device))
    return LinearState(memory, state.normaliser.to(memory.dtype))


@checked
class LinearAttention(nn.Module):
    """Multi-head linear attention with the feature map φ(x) = elu(x) + 1 (Katharopoulos et al. 2020).

    Args:
        embed_dim: features of input and output.
        num_heads: number of heads.
        head_dim: features of a head; None for `embed_dim / num_heads`.
        is_causal: whether each position attends only to itself and earlier positions; a state needs it.
        chunk_size: number of tokens in a chunk.
        eps: constant added to the denominator.
        bias: whether the projections have biases.

    Raises:
        ValueError: sizes that do not divide, or are below 1, or an `eps` that is not above 0.
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        is_causal: bool = True,
        chunk_size: int = 64,
        eps: float = 1e-6,
        bias: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        check_positive(chunk_size=chunk_size)
        check_above_zero(eps=eps)
        if head_dim is None:
            check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.head_dim = embed_dim // num_heads if head_dim is None else head_dim
        self.is_causal = is_causal
        self.chunk_size = chunk_size
        self.eps = eps
        self.q_proj = linear(embed_dim, num_heads * self.head_dim, bias=bias, **factory)
        self.k_proj = linear(embed_dim, num_heads * self.head_dim, bias=bias, **factory)
        self.v_proj = linear(embed_dim, num_heads * self.head_dim, bias=bias, **factory)
        self.out_proj = linear(num_heads * self.head_dim, embed_dim, bias=bias, **factory)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        state: LinearState | None = None,
        need_weights: bool = False,
    ) -> RecurrentOutput:
        """Apply linear attention.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, False for padding; None for no mask. Masked tokens leave the
                state unchanged.
            state: recurrent state of the earlier tokens; None for an empty one.
            need_weights: whether to return the attention weights, the matrix that maps values to outputs.

        Returns:
            Output `(batch, length, embed_dim)`, the state after the last token (None without `is_causal`), and weights
            `(batch, heads, length, length)` or None.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit, or a state without `is_causal`.
        """
        memory_shape = (self.num_heads, self.head_dim, self.head_dim)
        check_read(x, self.embed_dim, mask, state, memory_shape, memory_shape[:2])
        check_one_way(state, self.is_causal)
        query = elu_features(split_heads(self.q_proj(x), self.head_dim))  # batch heads length head_dim
        key = hide(elu_features(split_heads(self.k_proj(x), self.head_dim)), mask)
        value = split_heads(self.v_proj(x), self.head_dim)  # batch heads length head_dim
        last = None
        if not self.is_causal:
            heads = bidirectional_linear_attention(query, key, value, eps=self.eps)
        elif x.shape[1] == 1:
            heads, last = recurrent_linear_attention(query, key, value, state=state, eps=self.eps)
        else:
            heads, last = chunked_linear_attention(
                query, key, value, state=state, chunk_size=self.chunk_size, eps=self.eps
            )
        weights = None
        if need_weights:
            weights = linear_attention_weights(
                query, key, state=state, is_causal=self.is_causal, eps=self.eps
            )
        return RecurrentOutput(self.out_proj(merge_heads(heads)), last, weights)


def main() -> None:
    """Show the attention weights, and that processing the sequence in two parts gives the same output."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    x = draw(1, 4, 8)
    layer = fill(LinearAttention(embed_dim=8, num_heads=2))
    output, _, weights = layer(x, need_weights=True)
    show("LinearAttention", AttentionOutput(output, weights), words, words)
    _, state, _ = layer(x[:, :2])
    later, _, _ = layer(x[:, 2:], state=state)
    print("last output, one pass:  ", " ".join(f"{number:.3f}" for number in output[0, -1].tolist()))
    print("last output, two passes:", " ".join(f"{number:.3f}" for number in later[0, -1].tolist()))


if __name__ == "__main__":
    main()
