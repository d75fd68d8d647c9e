r"""The equation of attention, once queries and keys are there.

$$ S = s\,Q K^\top + B, \qquad A = \mathrm{softmax}(S), \qquad \mathrm{heads} = A V $$
"""

from typing import Any, NamedTuple

from jax import Array
from jaxtyping import Bool, Float

from jax_attention.layers import Dropout
from jax_attention.masks import and_masks
from jax_attention.ops.call import Call, checked_call
from jax_attention.ops.definition import call_masks, call_scores, call_values, weighted_values
from jax_attention.ops.dispatch import Restrictions, output_of
from jax_attention.ops.softmax import masked_softmax, sink_softmax
from jax_attention.outputs import AttentionOutput, CachedOutput, attention_output


class Seen(NamedTuple):
    """Queries and all keys that they may attend to, placed by position: what the equation is about.

    Attributes:
        query: `(batch, heads, length, head_dim)`.
        key: `(batch, kv_heads, slots, head_dim)`, those of the cache before the new ones.
        value: `(batch, kv_heads, slots, value_dim)`.
        bias: what the position scheme adds to the scores.
        mask: True where the query attends to the key.
        entries: all that is held of each token, as `KeyValue`.
        cache: KV cache for the next call; None without one.
        scoring: causality, window, place of the first query and scale; as in `ops.dot_product_attention`.
        need_weights: whether weights are returned.
        dropout: what drops weights in training.
        dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.
        implementation: what answers a call without weights; None for the fastest.
    """

    query: Float[Array, "batch heads length head_dim"]
    key: Float[Array, "batch kv_heads slots head_dim"]
    value: Float[Array, "batch kv_heads slots value_dim"]
    bias: Float[Array, "..."] | None
    mask: Bool[Array, "..."] | None
    entries: Any
    cache: Any
    scoring: Restrictions
    need_weights: bool
    dropout: Dropout
    dropout_keep: Bool[Array, "..."] | None
    implementation: str | None = None

    def attend(
        self, *, softcap: float | None = None, sinks: Float[Array, "heads"] | None = None
    ) -> tuple[Float[Array, "batch heads length value_dim"], Float[Array, "batch heads length slots"] | None]:
        """The equation: softmax of the scores, mean of the values.

        Args:
            softcap, sinks: as in `ops.dot_product_attention_weights`.

        Returns:
            What each head reads, and its weights before dropout; None where they are not asked for, for then the
            fastest implementation makes none.
        """
        call = self.sampled().call(softcap, sinks)
        if not self.need_weights:
            return output_of(call, self.implementation), None
        check_reference(self.implementation, "weights")
        scores, mask = call_scores(call)  # batch heads length slots
        weights = masked_softmax(scores, mask) if sinks is None else sink_softmax(scores, sinks, mask)
        return call_values(call, weights), weights

    def sampled(self) -> "Seen":
        """A copy with its dropout mask: the one given, else a random one, else None where nothing is dropped."""
        keep = self.dropout.keep_weights(self.query, self.key, self.dropout_keep)
        return self._replace(dropout_keep=keep)

    def with_bias(self, bias: Float[Array, "..."]) -> "Seen":
        """A copy with `bias` added to the bias of the position scheme."""
        return self._replace(bias=bias if self.bias is None else bias + self.bias)

    def with_mask(self, mask: Bool[Array, "..."]) -> "Seen":
        """A copy in which `mask` hides keys as well."""
        return self._replace(mask=mask if self.mask is None else and_masks(mask, self.mask))

    def with_window(self, window: int) -> "Seen":
        """A copy in which each query sees its own key and those before it, `window` at most."""
        scoring: Restrictions = {**self.scoring, "window": window}
        return self._replace(scoring=scoring)

    def visible(self) -> Bool[Array, "..."] | None:
        """One mask for all restrictions, of the rank of the scores; None where every query sees every key."""
        return call_masks(self._replace(value=self.key).call())[1]

    def scores(self) -> tuple[Float[Array, "batch heads length slots"], Bool[Array, "..."] | None]:
        """Scores in at least float32, and the mask of all restrictions; for weights that are no softmax."""
        return call_scores(self._replace(value=self.key).call())  # values may be of another dtype

    def read(
        self, weights: Float[Array, "batch heads length slots"]
    ) -> Float[Array, "batch heads length value_dim"]:
        """The mean of the values under weights of any kind, some of them dropped in training."""
        check_reference(self.implementation, "weights that are no softmax")
        seen = self.sampled()
        rate = 0.0 if seen.dropout_keep is None else self.dropout.rate
        return weighted_values(weights, self.value, dropout_keep=seen.dropout_keep, dropout_rate=rate)

    def answer(
        self,
        output: Float[Array, "batch length dim"],
        weights: Float[Array, "batch heads length slots"] | None,
    ) -> AttentionOutput | CachedOutput:
        """What a call returns: with the cache, if one was given, and with weights, if they were asked for."""
        return attention_output(output, weights if self.need_weights else None, self.cache)

    def call(self, softcap: float | None = None, sinks: Float[Array, "heads"] | None = None) -> Call:
        """The checked call of the equation, for what reads its parts."""
        return checked_call(
            self.query,
            self.key,
            self.value,
            self.bias,
            self.mask,
            softcap=softcap,
            sinks=sinks,
            dropout_keep=self.dropout_keep,
            dropout_rate=0.0 if self.dropout_keep is None else self.dropout.rate,
            **self.scoring,
        )


def check_reference(implementation: str | None, what: str) -> None:
    """Raise NotImplementedError unless weights are made by the one implementation that makes them."""
    if implementation not in (None, "reference"):
        raise NotImplementedError(
            f"{what} are made by implementation='reference' alone, got {implementation!r}; "
            "need_weights=False asks for no weights"
        )
