r"""Choice of the next token from its logits: greedy, or sampled with temperature, top-k and top-p.

$$ p = \mathrm{softmax}(\mathrm{filter}(\mathrm{scores} / T)), \qquad
   t = \min \Bigl\{ i : \sum_{j \le i} p_j > u \Bigr\} $$

A token is sampled by inverting the cumulative distribution, in the order of token ids, at a uniform random number u
that the caller supplies. The same u therefore gives the same token in both frameworks. Everything is computed in
at least float32; the frameworks may differ only where u or the border of a filter lies within the rounding error.

| symbol | argument      | effect                                                                     |
|--------|---------------|----------------------------------------------------------------------------|
| T      | `temperature` | below 1 sharpens the distribution, above 1 flattens it; 0 is greedy        |
| filter | `top_k`       | keeps the k largest scores (Fan, Lewis & Dauphin 2018)                     |
| filter | `top_p`       | keeps the fewest tokens with this total probability (Holtzman et al. 2019) |
| u      | `draw`        | uniform random number in [0, 1)                                            |
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.arrays import stable_order
from jax_attention.checks import check_positive
from jax_attention.ops import at_least_float32
from jax_attention.ops.arrays import known_values

SMALLEST = 2.0**-126  # the smallest normal float32; smaller temperatures may be flushed to 0


@checked
@dataclass(frozen=True)
class Sampling:
    """Settings of token selection and of the end of a text.

    Attributes:
        temperature: divisor of the scores; 0 for greedy decoding.
        top_k: number of most probable tokens to sample from, plus ties with the last of them; None for all.
        top_p: total probability of the most probable tokens to sample from; None for all.
        eos_tokens: tokens that end a text; empty for none.
        pad_token: padding token after the end token.

    Raises:
        ValueError: `temperature` is below 0, `top_k` is below 1, or `top_p` is outside (0, 1].
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    eos_tokens: tuple[int, ...] = ()
    pad_token: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature must be at least 0 and finite, got {self.temperature}")
        if self.top_k is not None:
            check_positive(top_k=self.top_k)
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be above 0 and at most 1, got {self.top_p}")

    def follow(
        self,
        scores: Float[Array, "batch vocab"],
        draw: Float[Array, " batch"] | None,
        ended: Bool[Array, " batch"],
    ) -> tuple[Int[Array, " batch"], Bool[Array, " batch"]]:
        """Choose the next token of each text; return the tokens and which texts have ended."""
        if draw is None:
            token = scores.argmax(-1)  # batch
        else:
            # The most probable token scores 0, so that a low temperature cannot overflow another score.
            scores = scores - jnp.amax(scores, axis=-1)[:, None]  # batch vocab
            temperature = max(self.temperature, SMALLEST)
            token = pick(filter_scores(scores, temperature, self.top_k, self.top_p), draw)  # batch
        token = jnp.where(ended, self.pad_token, token)  # batch
        for each in self.eos_tokens:
            ended = ended | (token == each)  # batch
        return token, ended


def check_draws(draws: Float[Array, "..."] | None, temperature: float, num_tokens: int, batch: int) -> None:
    """Raise ValueError unless `draws` has one number in [0, 1) per token when sampling, and is None otherwise."""
    if temperature == 0:
        if draws is not None:
            raise ValueError("draws must be None with temperature=0, which takes the likeliest token")
        return
    shape = (num_tokens, batch)
    if draws is None:
        raise ValueError(
            f"seed must be given with a temperature above 0, or draws of shape (num_tokens, batch) = {shape}, got None"
        )
    if tuple(draws.shape) != shape:
        raise ValueError(f"draws must have shape (num_tokens, batch) = {shape}, got {tuple(draws.shape)}")
    known = known_values(draws)
    if known is not None and not (known.min() >= 0 and known.max() < 1):
        raise ValueError(f"draws must be at least 0 and below 1, got {known.min()} to {known.max()}")


@checked
def filter_scores(
    scores: Float[Array, "*batch vocab"],
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
) -> Float[Array, "*batch vocab"]:
    """Divide scores by the temperature, in at least float32, and set filtered tokens to -inf.

    Args:
        scores: logits of each token.
        temperature: divisor, above 0.
        top_k, top_p: as in `Sampling`; `top_p` is applied after `top_k`.
    """
    scores = at_least_float32(scores) / temperature
    order = stable_order(-scores)  # *batch vocab
    if top_k is not None and top_k < scores.shape[-1]:
        last = jnp.take_along_axis(scores, order[..., top_k - 1 : top_k], axis=-1)  # *batch 1
        scores = jnp.where(scores >= last, scores, -jnp.inf)
    if top_p is not None and top_p < 1:
        chances = jax.nn.softmax(jnp.take_along_axis(scores, order, axis=-1), axis=-1)  # likeliest first
        stays = chances.cumsum(-1) - chances < top_p
        place = stable_order(order)  # *batch vocab
        scores = jnp.where(jnp.take_along_axis(stays, place, axis=-1), scores, -jnp.inf)
    return scores


@checked
def pick(scores: Float[Array, "*batch vocab"], draw: Float[Array, "*batch"]) -> Int[Array, "*batch"]:
    """The first token, in the order of ids, whose cumulative probability exceeds `draw`."""
    chances = jax.nn.softmax(scores, axis=-1)  # *batch vocab
    summed = chances.cumsum(-1)  # *batch vocab
    possible = chances > 0
    # Rounding may leave `draw` above every sum; then the last token with a probability above 0 is taken.
    last = possible.cumsum(-1) == possible.sum(-1)[..., None]
    exceeds = summed > draw.astype(summed.dtype)[..., None] * summed[..., -1:]
    return (possible & (exceeds | last)).astype(summed.dtype).argmax(-1)
