r"""Rules on the next token: suppressed tokens, and the timestamps of Whisper (Radford et al. 2022, section 2.3).

A speech model writes a timestamp before and after each segment of a text, so timestamps come in pairs and never
decrease. `generate` and `beam_search` give a score of -inf to each token that a rule forbids:

| rule                                                         | argument               |
|--------------------------------------------------------------|------------------------|
| tokens that are never written                                | `suppressed`           |
| tokens that are not written first, such as an empty text     | `suppressed_first`     |
| the first token is a timestamp, at most this one             | `Timestamps.max_first` |
| after a pair of timestamps comes text, after one alone not   | `Timestamps`           |
| a timestamp is at least the one before it                    | `Timestamps`           |
| timestamps that are likelier together than any text are used | `Timestamps`           |
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.models.special_tokens import check_within


@checked
@dataclass(frozen=True)
class Timestamps:
    """Tokens of the timestamps of a speech model.

    Attributes:
        first_timestamp: token of 0 seconds; all higher tokens are timestamps too, and the token before it, "no
            timestamps", is never written.
        end_token: end token; lower tokens are text.
        max_first: number of timestamps above 0 seconds that a text may begin with; None for all.
    """

    first_timestamp: int
    end_token: int
    max_first: int | None = None

    def forbidden(
        self,
        scores: Float[Tensor, "rows vocab"],
        tokens: Int[Tensor, "rows num_tokens"],
        count: Int[Tensor, ""],
    ) -> Bool[Tensor, "rows vocab"]:
        """Tokens that the timestamps before them forbid; arguments as in `TokenRules.apply`."""
        ids = torch.arange(scores.shape[-1], device=scores.device)  # vocab
        slots = torch.arange(tokens.shape[-1], device=scores.device)  # num_tokens
        timed = ids >= self.first_timestamp  # vocab
        stamped = (tokens >= self.first_timestamp) & (slots < count)  # rows num_tokens
        one = (stamped & (slots == count - 1)).any(-1)[:, None]  # rows 1
        pair = (stamped & (slots == count - 2)).any(-1)[:, None] | (count < 2)  # rows 1
        found = (one & pair & timed) | (one & ~pair & (ids < self.end_token))  # rows vocab

        latest = torch.amax(torch.where(stamped, slots, -1), dim=-1)[:, None]  # rows 1
        last = torch.where(slots == latest, tokens, 0).sum(-1)[:, None]  # rows 1
        least = last + torch.where(one & ~pair, 0, 1)  # rows 1
        found = found | (timed & (latest >= 0) & (ids < least))  # rows vocab
        found = found | (ids == self.first_timestamp - 1) | ((count == 0) & ~timed)  # rows vocab
        if self.max_first is None:
            return found
        return found | ((count == 0) & (ids > self.first_timestamp + self.max_first))  # rows vocab

    def prefer(self, scores: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
        """Give -inf to text where the timestamps together are likelier than the likeliest text token."""
        ids = torch.arange(scores.shape[-1], device=scores.device)  # vocab
        timed = ids >= self.first_timestamp  # vocab
        chances = torch.softmax(scores, dim=-1)  # rows vocab
        together = torch.where(timed, chances, 0.0).sum(-1)[:, None]  # rows 1
        likeliest = torch.amax(torch.where(timed, 0.0, chances), dim=-1)[:, None]  # rows 1
        return torch.where((together > likeliest) & ~timed, -torch.inf, scores)


@checked
@dataclass(frozen=True)
class TokenRules:
    """Rules on the next token in generation.

    Attributes:
        suppressed: tokens that are never written.
        suppressed_first: tokens that no text begins with.
        timestamps: rules of timestamps; None for a text without them.
    """

    suppressed: tuple[int, ...] = ()
    suppressed_first: tuple[int, ...] = ()
    timestamps: Timestamps | None = None

    def apply(
        self,
        scores: Float[Tensor, "rows vocab"],
        tokens: Int[Tensor, "rows num_tokens"],
        count: Int[Tensor, ""],
    ) -> Float[Tensor, "rows vocab"]:
        """Give -inf to the tokens that the rules forbid.

        Args:
            scores: logits or log-probabilities of the next token.
            tokens: tokens written so far, in slots from the first one on.
            count: number of tokens written so far.

        Raises:
            ValueError: a token of the rules is outside the vocabulary.
        """
        if self == NO_RULES:
            return scores
        for name, given in (
            ("suppressed", self.suppressed),
            ("suppressed_first", self.suppressed_first),
            ("first_timestamp", () if self.timestamps is None else (self.timestamps.first_timestamp,)),
        ):
            check_within(name, given, scores.shape[-1])
        ids = torch.arange(scores.shape[-1], device=scores.device)  # vocab
        forbidden = torch.zeros_like(ids, dtype=torch.bool)  # vocab
        for each in self.suppressed:
            forbidden = forbidden | (ids == each)  # vocab
        for each in self.suppressed_first:
            forbidden = forbidden | ((ids == each) & (count == 0))  # vocab
        scores = torch.where(forbidden, -torch.inf, scores)  # rows vocab
        if self.timestamps is None:
            return scores
        forbidden = self.timestamps.forbidden(scores, tokens, count)  # rows vocab
        return self.timestamps.prefer(torch.where(forbidden, -torch.inf, scores))


NO_RULES = TokenRules()
