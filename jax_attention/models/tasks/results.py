"""Named tuples that models with a task head return."""

from typing import NamedTuple

from jax import Array
from jaxtyping import Float


class LogitsOutput(NamedTuple):
    """Result of a classifier.

    Attributes:
        logits: `(batch, classes)`, or `(batch, length, classes)` for one label per token; also available as `output`.
        last_hidden_state: output of the backbone, `(batch, length, embed)`.
        attentions: attention weights, one `(batch, heads, length, length)` per layer; None with `need_weights=False`.
        hidden_states: the input of each layer, then the output of the last one; None unless asked for.
    """

    logits: Float[Array, "batch ... classes"]
    last_hidden_state: Float[Array, "batch length embed"]
    attentions: tuple[Float[Array, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None

    @property
    def output(self) -> Float[Array, "batch ... classes"]:
        """The same as `logits`."""
        return self.logits


class SpanOutput(NamedTuple):
    """Result of an extractive question-answering model.

    Attributes:
        start_logits: logit of each token as the first one of the answer span, `(batch, length)`.
        end_logits: logit of each token as the last one of the answer span, `(batch, length)`.
        last_hidden_state, attentions, hidden_states: as in `LogitsOutput`.
    """

    start_logits: Float[Array, "batch length"]
    end_logits: Float[Array, "batch length"]
    last_hidden_state: Float[Array, "batch length embed"]
    attentions: tuple[Float[Array, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None


class RewardOutput(NamedTuple):
    """Result of a reward model.

    Attributes:
        rewards: one reward per sequence, `(batch,)`; also available as `output`.
        last_hidden_state, attentions, hidden_states: as in `LogitsOutput`.
    """

    rewards: Float[Array, " batch"]
    last_hidden_state: Float[Array, "batch length embed"]
    attentions: tuple[Float[Array, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None

    @property
    def output(self) -> Float[Array, " batch"]:
        """The same as `rewards`."""
        return self.rewards


class EmbeddingOutput(NamedTuple):
    """Result of a model that embeds whole sequences.

    Attributes:
        embeddings: one embedding per sequence, `(batch, features)`; also available as `output`.
        last_hidden_state, attentions, hidden_states: as in `LogitsOutput`.
    """

    embeddings: Float[Array, "batch features"]
    last_hidden_state: Float[Array, "batch length embed"]
    attentions: tuple[Float[Array, "batch heads length length"], ...] | None
    hidden_states: tuple[Float[Array, "batch length embed"], ...] | None

    @property
    def output(self) -> Float[Array, "batch features"]:
        """The same as `embeddings`."""
        return self.embeddings
