"""Named tuples that models with a task head return."""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class LogitsOutput(NamedTuple):
    """Result of a classifier.

    Attributes:
        logits: `(batch, classes)`, or `(batch, length, classes)` for one label per token; also available as `output`.
        last_hidden_state: output of the backbone, `(batch, length, embed)`.
        attentions: attention weights, one `(batch, heads, length, length)` per layer; None with `need_weights=False`.
        hidden_states: the input of each layer, then the output of the last one; None unless asked for.
    """

    logits: Float[Tensor, "batch ... classes"]
    last_hidden_state: Float[Tensor, "batch length embed"]
    attentions: tuple[Float[Tensor, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Tensor, "batch length embed"], ...] | None

    @property
    def output(self) -> Float[Tensor, "batch ... classes"]:
        """The same as `logits`."""
        return self.logits


class SpanOutput(NamedTuple):
    """Result of an extractive question-answering model.

    Attributes:
        start_logits: logit of each token as the first one of the answer span, `(batch, length)`.
        end_logits: logit of each token as the last one of the answer span, `(batch, length)`.
        last_hidden_state, attentions, hidden_states: as in `LogitsOutput`.
    """

    start_logits: Float[Tensor, "batch length"]
    end_logits: Float[Tensor, "batch length"]
    last_hidden_state: Float[Tensor, "batch length embed"]
    attentions: tuple[Float[Tensor, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Tensor, "batch length embed"], ...] | None


class RewardOutput(NamedTuple):
    """Result of a reward model.

    Attributes:
        rewards: one reward per sequence, `(batch,)`; also available as `output`.
        last_hidden_state, attentions, hidden_states: as in `LogitsOutput`.
    """

    rewards: Float[Tensor, " batch"]
    last_hidden_state: Float[Tensor, "batch length embed"]
    attentions: tuple[Float[Tensor, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Tensor, "batch length embed"], ...] | None

    @property
    def output(self) -> Float[Tensor, " batch"]:
        """The same as `rewards`."""
        return self.rewards


class EmbeddingOutput(NamedTuple):
    """Result of a model that embeds whole sequences.

    Attributes:
        embeddings: one embedding per sequence, `(batch, features)`; also available as `output`.
        last_hidden_state, attentions, hidden_states: as in `LogitsOutput`.
    """

    embeddings: Float[Tensor, "batch features"]
    last_hidden_state: Float[Tensor, "batch length embed"]
    attentions: tuple[Float[Tensor, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Tensor, "batch length embed"], ...] | None

    @property
    def output(self) -> Float[Tensor, "batch features"]:
        """The same as `embeddings`."""
        return self.embeddings
