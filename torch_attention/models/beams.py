r"""Beam search: an approximate search for the most probable sequences.

$$ \mathrm{score}(t_1 \ldots t_n) = \frac{1}{n^{\alpha}} \sum_i \log p(t_i \mid t_1 \ldots t_{i-1}, s) $$

At each step the search extends each of the best prefixes (beams) by every token and keeps the best few of the results
(Graves 2012; Sutskever, Vinyals & Le 2014); finished sequences are stored separately. α is `length_penalty`. With α = 0
every further token lowers the score, so that short sequences win.

Probabilities are computed in at least float32. Both frameworks generate the same tokens unless two scores differ by
less than the rounding error. Ties are broken by the rank of the prefix, then by the lower token id.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import stable_order
from torch_attention.checks import check_positive
from torch_attention.models.evaluation import evaluate
from torch_attention.models.generation import target_start
from torch_attention.models.incremental_decoding import (
    Writer,
    check_request,
    decode,
    prefill,
    prompt_mask,
    select,
)
from torch_attention.models.special_tokens import end_and_padding
from torch_attention.models.token_rules import NO_RULES, TokenRules
from torch_attention.ops import scan


class BeamOutput(NamedTuple):
    """Result of beam search: `tokens, scores = beam_search(model, inputs, num_tokens)`.

    Attributes:
        tokens: token ids, `(batch, beams, num_tokens)`, best sequence first; padding after the end token.
        scores: scores of the sequences, `(batch, beams)`; where there are fewer sequences than beams, the score is -inf
            and all tokens are padding.
    """

    tokens: Int[Tensor, "batch beams num_tokens"]
    scores: Float[Tensor, "batch beams"]


class _Beams(NamedTuple):
    """The best unfinished prefixes, with scores before the length penalty, and the best finished sequences."""

    tokens: Int[Tensor, "batch beams num_tokens"]
    scores: Float[Tensor, "batch beams"]
    ended_tokens: Int[Tensor, "batch beams num_tokens"]
    ended_scores: Float[Tensor, "batch beams"]


@checked
def beam_search(
    model: Writer,
    inputs: Shaped[Tensor, "batch length ..."],
    num_tokens: int,
    mask: Shaped[Tensor, "..."] | None = None,
    *,
    num_beams: int = 4,
    length_penalty: float = 1.0,
    start_token: int | Sequence[int] | None = None,
    eos_token: int | Sequence[int] | None = None,
    pad_token: int | None = None,
    rules: TokenRules | None = None,
) -> BeamOutput:
    """Generate the best-scoring sequences by beam search, without dropout.

    Args:
        model, inputs, num_tokens, mask, start_token, eos_token, pad_token, rules: as in `generate`.
        num_beams: number of prefixes kept at each step, and of sequences returned.
        length_penalty: exponent α; a score is divided by length^α; 0 for no penalty.

    Returns:
        The new tokens, without the prompt, and their scores. A sequence without an end token after `num_tokens` tokens
        is scored like the others.

    Raises:
        TypeError: the mask is neither boolean nor 0/1, or another argument has the wrong type.
        ValueError: shapes do not match, `num_beams` is below 1, there are more tokens than positions, or a token is
            outside the vocabulary.
    """
    eos, pad = end_and_padding(model, eos_token, pad_token)
    start = target_start(model, start_token)
    mask = prompt_mask(model, inputs, mask, eos)
    check_request(model, inputs, num_tokens, mask, start)
    check_positive(num_beams=num_beams)
    rules = NO_RULES if rules is None else rules
    sizes = {"num_tokens": num_tokens, "start": start, "num_beams": num_beams, "rules": rules}
    penalty = float(length_penalty)
    return evaluate(_search, model, inputs, mask, eos=eos, pad=pad, length_penalty=penalty, **sizes)


def _search(
    model: Writer,
    inputs: Tensor,
    mask: Tensor | None,
    *,
    num_tokens: int,
    start: tuple[int, ...],
    eos: tuple[int, ...],
    pad: int,
    num_beams: int,
    length_penalty: float,
    rules: TokenRules,
) -> BeamOutput:
    scores, written = prefill(model, inputs, mask, num_tokens=num_tokens, start=start, eos=eos)
    batch, vocab = scores.shape
    slots = torch.arange(num_tokens, device=scores.device)  # num_tokens
    stops = _among(torch.arange(vocab, device=scores.device), eos)  # vocab
    first_row = torch.arange(batch, device=scores.device)[:, None] * num_beams  # batch 1

    def choose(beams: _Beams, scores: Tensor, place: Tensor) -> tuple[_Beams, Tensor, Tensor]:
        """Extend each prefix by every token; return the best results, their last tokens and the rows they came from."""
        chances = torch.log_softmax(scores, dim=-1)  # batch*beams vocab
        chances = rules.apply(chances, beams.tokens.reshape((-1, num_tokens)), place)
        chances = chances.reshape((batch, num_beams, vocab))  # batch beams vocab
        together = beams.scores[..., None] + chances  # batch beams vocab
        share = (place + 1).to(together.dtype) ** -length_penalty
        ends = [
            torch.where(slots == place, each, beams.tokens) for each in eos
        ]  # batch beams num_tokens each
        ended = _best(
            torch.concatenate([beams.ended_tokens, *ends], dim=1),
            torch.concatenate([beams.ended_scores, *(together[..., each] * share for each in eos)], dim=1),
            num_beams,
        )
        going_on = torch.where(stops, -torch.inf, together).reshape((batch, -1))  # batch beams*vocab
        order = stable_order(-going_on)[:, :num_beams]  # batch beams
        beam, token = order // vocab, order % vocab  # batch beams
        tokens = torch.take_along_dim(beams.tokens, beam[..., None], dim=1)  # batch beams num_tokens
        tokens = torch.where(slots == place, token[..., None], tokens)  # batch beams num_tokens
        best = torch.take_along_dim(going_on, order, dim=1)  # batch beams
        return _Beams(tokens, best, *ended), token.reshape(-1), (first_row + beam).reshape(-1)

    def step(state: Any, given: tuple[Tensor, ...]) -> tuple[Any, Tensor]:
        beams, token, written = state
        scores, written = decode(model, token, written)
        beams, token, row = choose(beams, scores, *given)
        return (beams, token, select(written, row)), token

    text = torch.arange(batch * num_beams, device=scores.device) // num_beams  # batch*beams
    nothing = torch.zeros_like(scores[text, 0]).reshape((batch, num_beams)) - torch.inf  # batch beams
    alone = torch.where(torch.arange(num_beams, device=scores.device) == 0, 0.0, nothing)  # batch beams
    empty = torch.zeros_like(scores[text, :1].argmax(-1)).reshape((batch, num_beams, 1)) + pad
    empty = torch.broadcast_to(empty, (batch, num_beams, num_tokens))  # batch beams num_tokens
    beams, token, row = choose(_Beams(empty, alone, empty, nothing), scores[text], slots[0])
    if num_tokens > 1:
        state = beams, token, select(written, text[row])
        (beams, *_), _ = scan(step, state, (slots[1:],))
    found = _best(
        torch.concatenate([beams.ended_tokens, beams.tokens], dim=1),
        torch.concatenate([beams.ended_scores, beams.scores * float(num_tokens) ** -length_penalty], dim=1),
        num_beams,
    )
    return found._replace(tokens=torch.where(found.scores[..., None] == -torch.inf, pad, found.tokens))


def _among(tokens: Int[Tensor, " vocab"], some: tuple[int, ...]) -> Bool[Tensor, " vocab"]:
    found = torch.zeros_like(tokens, dtype=torch.bool)  # vocab
    for each in some:
        found = found | (tokens == each)  # vocab
    return found


def _best(
    tokens: Int[Tensor, "batch sequences num_tokens"], scores: Float[Tensor, "batch sequences"], number: int
) -> BeamOutput:
    """The best-scoring sequences, best first."""
    order = stable_order(-scores)[:, :number]  # batch number
    return BeamOutput(
        torch.take_along_dim(tokens, order[..., None], dim=1), torch.take_along_dim(scores, order, dim=1)
    )
