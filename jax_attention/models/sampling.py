r"""Which token comes next, given a score of each: the likeliest, or one that is drawn from those likely enough.

$$ p = \mathrm{softmax}(\mathrm{filter}(\mathrm{scores} / T)), \qquad
   t = \min \Bigl\{ i : \sum_{j \le i} p_j > u \Bigr\} $$

The draw u comes from outside, uniform between 0 and 1, and picks a token from the distribution by its inverse, tokens
in the order of their numbers: one draw picks one token, in both frameworks. All is computed in at least
float32; where a draw, or the border of a filter, is within rounding of another token's share, the two may still differ.

| symbol | argument      |                                                                                  |
|--------|---------------|----------------------------------------------------------------------------------|
| T      | `temperature` | below 1 favours what is likely, above 1 what is not; 0 is the likeliest token     |
| filter | `top_k`       | the k largest scores stay (Fan, Lewis & Dauphin 2018)                             |
| filter | `top_p`       | the fewest tokens stay that have so much probability together (Holtzman et al. 2019) |
| u      | `draw`        |                                                                                  |
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

SMALLEST = 2.0**-126  # the smallest normal float32; below it a temperature may be taken for 0


@checked
@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen, and when a text ends.

    Attributes:
        temperature: by which scores are divided; 0 takes the likeliest token.
        top_k: how many tokens may be drawn, those that tie with the last besides; None for all.
        top_p: how much probability those that may be drawn have together; None for all.
        eos_tokens: tokens that end a text; empty if none does.
        pad_token: token behind the end.

    Raises:
        ValueError: a temperature below 0, `top_k` below 1, or `top_p` outside (0, 1].
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
        """The next token of each text, and which texts have ended with it."""
        if draw is None:
            token = scores.argmax(-1)  # batch
        else:
            # The likeliest token scores 0, so that a low temperature overflows in no other's favour.
            scores = scores - jnp.amax(scores, axis=-1)[:, None]  # batch vocab
            temperature = max(self.temperature, SMALLEST)
            token = pick(filter_scores(scores, temperature, self.top_k, self.top_p), draw)  # batch
        token = jnp.where(ended, self.pad_token, token)  # batch
        for each in self.eos_tokens:
            ended = ended | (token == each)  # batch
        return token, ended


def check_draws(draws: Float[Array, "..."] | None, temperature: float, num_tokens: int, batch: int) -> None:
    """Raise ValueError unless there is a draw for each token if tokens are drawn, and none if they are not."""
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
    """The scores divided by the temperature, in at least float32, and -inf where a token may not be drawn.

    Args:
        scores: of each token; logits.
        temperature: above 0.
        top_k, top_p: as in `Sampling`; `top_p` looks at what `top_k` leaves.
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
    """The first token by which the probabilities, summed up by token number, exceed the draw."""
    chances = jax.nn.softmax(scores, axis=-1)  # *batch vocab
    summed = chances.cumsum(-1)  # *batch vocab
    possible = chances > 0
    # Rounding may leave the draw above every sum; then it is the last token that has a chance.
    last = possible.cumsum(-1) == possible.sum(-1)[..., None]
    exceeds = summed > draw.astype(summed.dtype)[..., None] * summed[..., -1:]
    return (possible & (exceeds | last)).astype(summed.dtype).argmax(-1)
