r"""What an encoder-decoder writes: the likeliest token each time, or the likeliest sequence that a beam finds.

$$ \mathrm{score}(t_1 \ldots t_n) = \frac{1}{n^{\alpha}} \sum_i \log p(t_i \mid t_1 \ldots t_{i-1}, s) $$

Greedy decoding keeps one beginning and takes what is likeliest next. Beam search (Graves 2012; Sutskever, Vinyals & Le
2014) keeps the best few beginnings, goes on from each with every token, and keeps the best few again; what has ended is
set aside. Without α, `length_penalty`, every token makes a sequence less likely, so that short ones win.

Both read on with the caches of the model, compute probabilities in at least float32, and write the same tokens in both
frameworks unless two scores are closer than rounding. Of sequences that tie, the one whose beginning stood higher comes
first, then the one with the lower token number.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.arrays import stable_order
from torch_attention.checks import check_boolean, check_positive
from torch_attention.models.evaluation import evaluate
from torch_attention.models.sequence import SequenceToSequence
from torch_attention.ops import at_least_float32, scan


class BeamOutput(NamedTuple):
    """`tokens, scores = beam_search(model, source, ...)`.

    Attributes:
        tokens: `(batch, beams, max_len)`, the best sequence first; padding behind the stop token.
        scores: `(batch, beams)`; -inf, and nothing but padding, where there are fewer sequences than beams.
    """

    tokens: Int[Tensor, "batch beams max_len"]
    scores: Float[Tensor, "batch beams"]


class _Beams(NamedTuple):
    """The best beginnings, with scores that are not divided yet, and the best sequences that have ended."""

    tokens: Int[Tensor, "batch beams max_len"]
    scores: Float[Tensor, "batch beams"]
    ended_tokens: Int[Tensor, "batch beams max_len"]
    ended_scores: Float[Tensor, "batch beams"]


@checked
def greedy_decode(
    model: SequenceToSequence,
    source: Shaped[Tensor, "batch source ..."],
    source_mask: Shaped[Tensor, "..."] | None = None,
    *,
    start_token: int,
    stop_token: int,
    max_len: int,
    pad_token: int = 0,
) -> Int[Tensor, "batch max_len"]:
    """Write the likeliest token each time, without dropout, until each sequence has ended.

    Args:
        model: what reads and writes.
        source: what it reads, as in a call of the model.
        source_mask: False where there is padding, as from `padding_mask`.
        start_token: what stands before the first token that is written.
        stop_token: what ends a sequence.
        max_len: how many tokens are written at most, the stop token among them.
        pad_token: what stands behind the stop token.

    Returns:
        The tokens behind the start token.

    Raises:
        TypeError: a mask that is not boolean.
        ValueError: shapes that do not fit, or more tokens than have a position.
    """
    if source_mask is not None and source_mask.ndim != 2:
        check_boolean("source_mask", source_mask)
    check_length(model, max_len)
    settings = {"start_token": start_token, "stop_token": stop_token, "pad_token": pad_token}
    return evaluate(_greedy, model, source, source_mask, max_len=max_len, **settings)


@checked
def beam_search(
    model: SequenceToSequence,
    source: Shaped[Tensor, "batch source ..."],
    source_mask: Shaped[Tensor, "..."] | None = None,
    *,
    start_token: int,
    stop_token: int,
    max_len: int,
    num_beams: int = 4,
    length_penalty: float = 1.0,
    pad_token: int = 0,
) -> BeamOutput:
    """Write the sequences that score best, without dropout, as far as so many beams find them.

    Args:
        model, source, source_mask, start_token, stop_token, max_len, pad_token: as in `greedy_decode`.
        num_beams: how many beginnings are gone on from, and how many sequences come out.
        length_penalty: the power of the length by which a score is divided; 0 for none.

    Returns:
        The sequences behind the start token, and their scores. One that has not ended after `max_len` tokens is
        scored like the others.

    Raises:
        TypeError: a mask that is not boolean.
        ValueError: shapes that do not fit, no beam, or more tokens than have a position.
    """
    if source_mask is not None and source_mask.ndim != 2:
        check_boolean("source_mask", source_mask)
    check_length(model, max_len)
    check_positive(num_beams=num_beams)
    settings = {"start_token": start_token, "stop_token": stop_token, "pad_token": pad_token}
    settings |= {"max_len": max_len, "num_beams": num_beams}
    return evaluate(_beam, model, source, source_mask, length_penalty=float(length_penalty), **settings)


def check_length(model: SequenceToSequence, max_len: int) -> None:
    """Raise ValueError unless the model can write so many tokens, and at least one."""
    check_positive(max_len=max_len)
    room = model.max_target_len
    if room is not None and max_len > room:
        raise ValueError(f"max_len must be at most the {room} positions of the model, got {max_len}")


def _greedy(
    model: SequenceToSequence,
    source: Tensor,
    source_mask: Tensor | None,
    *,
    start_token: int,
    stop_token: int,
    max_len: int,
    pad_token: int,
) -> Int[Tensor, "batch max_len"]:
    memory = model.encode(source, source_mask).output  # batch source embed
    start = torch.full((memory.shape[0],), start_token, device=memory.device)  # batch
    scores, caches = _read_on(model, start, memory, source_mask, model.start(max_len))

    def step(state: Any, _: tuple[Tensor, ...]) -> tuple[Any, Tensor]:
        token, ended, caches = state
        scores, caches = _read_on(model, token, memory, source_mask, caches)
        token = torch.where(ended, pad_token, scores.argmax(-1))  # batch
        return (token, ended | (token == stop_token), caches), token

    first = scores.argmax(-1)  # batch
    if max_len == 1:
        return first[:, None]
    _, others = scan(
        step, (first, first == stop_token, caches), (torch.arange(1, max_len, device=memory.device),)
    )
    return torch.concatenate([first[None], others]).swapaxes(0, 1)


def _beam(
    model: SequenceToSequence,
    source: Tensor,
    source_mask: Tensor | None,
    *,
    start_token: int,
    stop_token: int,
    max_len: int,
    num_beams: int,
    length_penalty: float,
    pad_token: int,
) -> BeamOutput:
    memory = model.encode(source, source_mask).output  # batch source embed
    batch = memory.shape[0]
    first_row = torch.arange(batch, device=memory.device)[:, None] * num_beams  # batch 1
    text = torch.arange(batch * num_beams, device=memory.device) // num_beams  # batch*beams
    memory = memory[text]  # batch*beams source embed
    source_mask = None if source_mask is None else source_mask[text]
    slots = torch.arange(max_len, device=memory.device)  # max_len

    def choose(beams: _Beams, scores: Tensor, place: Tensor) -> tuple[_Beams, Tensor, Tensor]:
        """Go on from each beginning with every token; the best of all, their last tokens and where they came from."""
        chances = torch.log_softmax(scores, dim=-1).reshape((batch, num_beams, -1))  # batch beams vocab
        vocab = chances.shape[-1]
        together = beams.scores[..., None] + chances  # batch beams vocab
        share = (place + 1).to(together.dtype) ** -length_penalty
        stopped = torch.where(slots == place, stop_token, beams.tokens)  # batch beams max_len
        ended = _best(
            torch.concatenate([beams.ended_tokens, stopped], dim=1),
            torch.concatenate([beams.ended_scores, together[..., stop_token] * share], dim=1),
            num_beams,
        )
        stops = torch.arange(vocab, device=memory.device) == stop_token  # vocab
        going_on = torch.where(stops, -torch.inf, together).reshape((batch, -1))  # batch beams*vocab
        order = stable_order(-going_on)[:, :num_beams]  # batch beams
        beam, token = order // vocab, order % vocab  # batch beams
        tokens = torch.take_along_dim(beams.tokens, beam[..., None], dim=1)  # batch beams max_len
        tokens = torch.where(slots == place, token[..., None], tokens)  # batch beams max_len
        best = torch.take_along_dim(going_on, order, dim=1)  # batch beams
        return _Beams(tokens, best, *ended), token.reshape(-1), (first_row + beam).reshape(-1)

    def step(state: Any, given: tuple[Tensor, ...]) -> tuple[Any, Tensor]:
        beams, token, caches = state
        scores, caches = _read_on(model, token, memory, source_mask, caches)
        beams, token, row = choose(beams, scores, *given)
        return (beams, token, tuple(cache.select(row) for cache in caches)), token

    start = torch.full((batch * num_beams,), start_token, device=memory.device)  # batch*beams
    scores, caches = _read_on(model, start, memory, source_mask, model.start(max_len))
    nothing = torch.zeros_like(scores[:, 0]).reshape((batch, num_beams)) - torch.inf  # batch beams
    empty = (
        torch.zeros_like(scores[:, :1].argmax(-1)).reshape((batch, num_beams, 1)) + pad_token
    )  # batch beams 1
    empty = torch.broadcast_to(empty, (batch, num_beams, max_len))  # batch beams max_len
    alone = torch.where(torch.arange(num_beams, device=memory.device) == 0, 0.0, nothing)  # batch beams
    beams, token, row = choose(_Beams(empty, alone, empty, nothing), scores, slots[0])
    if max_len > 1:
        state = beams, token, tuple(cache.select(row) for cache in caches)
        (beams, *_), _ = scan(step, state, (slots[1:],))
    found = _best(
        torch.concatenate([beams.ended_tokens, beams.tokens], dim=1),
        torch.concatenate([beams.ended_scores, beams.scores * float(max_len) ** -length_penalty], dim=1),
        num_beams,
    )
    return found._replace(tokens=torch.where(found.scores[..., None] == -torch.inf, pad_token, found.tokens))


def _best(
    tokens: Int[Tensor, "batch sequences max_len"], scores: Float[Tensor, "batch sequences"], number: int
) -> BeamOutput:
    """The sequences that score best, best first."""
    order = stable_order(-scores)[:, :number]  # batch number
    return BeamOutput(
        torch.take_along_dim(tokens, order[..., None], dim=1), torch.take_along_dim(scores, order, dim=1)
    )


def _read_on(
    model: SequenceToSequence,
    token: Int[Tensor, " rows"],
    memory: Float[Tensor, "rows source embed"],
    source_mask: Shaped[Tensor, "..."] | None,
    caches: tuple[Any, ...],
) -> tuple[Float[Tensor, "rows vocab"], tuple[Any, ...]]:
    """The scores of what follows a token, and what is remembered of it."""
    written = model.decode(token[:, None], memory, None, source_mask, caches=caches)
    return at_least_float32(written.output[:, 0]), written.caches or ()
