r"""Slot attention: slots compete for the elements of an input (Locatello et al. 2020).

$$ A_{ij} = \operatorname{softmax}_i\!\left(q_i^\top k_j / \sqrt{D}\right), \qquad
   W_{ij} = \frac{A_{ij} + \epsilon}{\sum_l (A_{il} + \epsilon)}, \qquad
   s'_i = \mathrm{GRU}\Bigl(\sum_j W_{ij} v_j,\; s_i\Bigr), \qquad
   s_i \leftarrow s'_i + \mathrm{MLP}(\mathrm{LN}(s'_i)) $$

Two changes from `PerceiverAttention`: the softmax runs over the slots instead of the elements, so that slots compete
for each element and specialise; and the initial slots are not learned individually but sampled from one learned
distribution, μ + σ · noise, so that they are interchangeable. The step is repeated with the same parameters.

| symbol | argument or parameter |                                                                  |
|--------|-----------------------|------------------------------------------------------------------|
| D      | `slot_dim`            |                                                                  |
| μ, σ   | `mean`, `log_sigma`   | `(slot_dim)`, learned; σ = exp(`log_sigma`)                      |
| ε      | `eps`                 | avoids division by zero for a slot without elements              |
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.checks import check_key_mask, check_positive, check_sequence
from jax_attention.feed_forward import FeedForward
from jax_attention.latents.gru import GRUCell
from jax_attention.layers import Factory, linear, parameter
from jax_attention.norms import layer_norm, normalise
from jax_attention.ops import at_least_float32


class SlotOutput(NamedTuple):
    """Result of slot attention: `output, weights, assignments = attention(x, noise)`.

    Attributes:
        output: slots, `(batch, slots, slot_dim)`.
        weights: W of the last iteration, `(batch, slots, key)`, which sums to one over the keys; in at least float32.
            None with `need_weights=False`.
        assignments: A of the last iteration, `(batch, slots, key)`, which sums to one over the slots. None with
            `need_weights=False`.
    """

    output: Float[Array, "batch slots slot_dim"]
    weights: Float[Array, "batch slots key"] | None
    assignments: Float[Array, "batch slots key"] | None


@checked
def slot_assignments(
    query: Float[Array, "batch slots slot_dim"],
    key: Float[Array, "batch key slot_dim"],
    mask: Bool[Array, "#batch 1 1 key"] | None = None,
) -> Float[Array, "batch slots key"]:
    """Assign each element to the slots by a softmax over slots, in at least float32; zero where masked."""
    scores = einsum("bqd,bkd->bqk", at_least_float32(query), at_least_float32(key))  # batch slots key
    shares = jax.nn.softmax(scores * query.shape[-1] ** -0.5, axis=-2)  # batch slots key
    return shares if mask is None else jnp.where(mask[:, 0], shares, 0.0)


@checked
def slot_weights(
    assignments: Float[Array, "batch slots key"],
    mask: Bool[Array, "#batch 1 1 key"] | None = None,
    *,
    eps: float,
) -> Float[Array, "batch slots key"]:
    """Normalise the assignments of each slot to sum to one over the elements; zero if all elements are masked."""
    shares = assignments + eps  # batch slots key
    if mask is not None:
        shares = jnp.where(mask[:, 0], shares, 0.0)
    total = shares.sum(-1)[..., None]  # batch slots 1
    return shares / jnp.where(total > 0, total, 1.0)


@checked
class SlotAttention(nnx.Module):
    """Iterated attention in which slots compete for the elements of an input (Locatello et al. 2020, algorithm 1).

    Args:
        input_dim: features of the input.
        slot_dim: features of a slot.
        ffn_dim: hidden features of the feed-forward network; None for `4 * slot_dim`.
        num_iterations: number of attention iterations.
        activation: activation of the feed-forward network: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or
            `"silu"`.
        eps: constant added to every assignment.
        norm_eps: constant added to the variance in each normalisation; 1e-3 in the authors' code.
        bias: whether the query, key and value projections have biases.

    Raises:
        ValueError: `num_iterations` below 1, or an unknown activation.
    """

    def __init__(
        self,
        input_dim: int,
        slot_dim: int,
        ffn_dim: int | None = None,
        *,
        num_iterations: int = 3,
        activation: str = "relu",
        eps: float = 1e-8,
        norm_eps: float = 1e-5,
        bias: bool = False,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_positive(num_iterations=num_iterations)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        ffn_dim = 4 * slot_dim if ffn_dim is None else ffn_dim
        self.input_dim = input_dim
        self.slot_dim = slot_dim
        self.num_iterations = num_iterations
        self.eps = eps
        self.mean = parameter(slot_dim, std=1.0, **factory)
        self.log_sigma = parameter(slot_dim, **factory)
        self.input_norm = layer_norm(input_dim, eps=norm_eps, **factory)
        self.slot_norm = layer_norm(slot_dim, eps=norm_eps, **factory)
        self.ffn_norm = layer_norm(slot_dim, eps=norm_eps, **factory)
        self.q_proj = linear(slot_dim, slot_dim, bias=bias, **factory)
        self.k_proj = linear(input_dim, slot_dim, bias=bias, **factory)
        self.v_proj = linear(input_dim, slot_dim, bias=bias, **factory)
        self.gru = GRUCell(slot_dim, slot_dim, **factory)
        self.ffn = FeedForward(slot_dim, ffn_dim, activation=activation, **factory)

    def __call__(
        self,
        x: Float[Array, "batch key input_dim"],
        noise: Float[Array, "batch slots slot_dim"],
        mask: Bool[Array, "#batch 1 1 key"] | None = None,
        *,
        need_weights: bool = True,
    ) -> SlotOutput:
        """Group the input into slots, with one slot per noise vector.

        Args:
            x: input sequence, `(batch, key, input_dim)`.
            noise: standard normal samples that initialise the slots, `(batch, slots, slot_dim)`, for any number of
                slots.
            mask: boolean mask, `(batch, 1, 1, key)`, True for visible elements; None for no mask.
                `padding_mask(tokens, pad_id)` makes one for padded batches.
            need_weights: whether to return weights and assignments.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_sequence("x", x, self.input_dim)
        check_sequence("noise", noise, self.slot_dim, batch=x.shape[0])
        check_key_mask(mask, x.shape[0], x.shape[1])
        inputs = normalise(self.input_norm, x)  # batch key input_dim
        key, value = self.k_proj(inputs), self.v_proj(inputs)  # batch key slot_dim
        sigma = jnp.exp(at_least_float32(self.log_sigma[...]))  # slot_dim
        mean = at_least_float32(self.mean[...])  # slot_dim
        slots = (mean[None, None] + sigma[None, None] * at_least_float32(noise)).astype(
            x.dtype
        )  # batch slots slot_dim
        for _ in range(self.num_iterations):
            assignments = slot_assignments(self.q_proj(normalise(self.slot_norm, slots)), key, mask)
            weights = slot_weights(assignments, mask, eps=self.eps)
            updates = einsum("bqk,bkd->bqd", weights, value.astype(weights.dtype))  # batch slots slot_dim
            slots = self.gru(updates, slots)  # batch slots slot_dim
            slots = slots + self.ffn(normalise(self.ffn_norm, slots))  # batch slots slot_dim
        if not need_weights:
            return SlotOutput(slots, None, None)
        return SlotOutput(slots, weights, assignments)


def main() -> None:
    """Show the assignments of five elements to two slots."""
    from jax_attention.demonstration import draw, fill, show
    from jax_attention.outputs import AttentionOutput

    attention = fill(SlotAttention(input_dim=4, slot_dim=6, ffn_dim=8, rngs=nnx.Rngs(0)))
    output, _, assignments = attention(draw(1, 5, 4), draw(1, 2, 6, seed=1))
    show("SlotAttention", AttentionOutput(output, assignments), ["one", "two"], ["a", "b", "c", "d", "e"])


if __name__ == "__main__":
    main()
