r"""The attention equation, applied to position-encoded queries and all visible keys.

$$ S = s\,Q K^\top + B, \qquad A = \mathrm{softmax}(S), \qquad \mathrm{heads} = A V $$
"""

from typing import Any, NamedTuple

from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.layers import Dropout
from torch_attention.masks import and_masks
from torch_attention.ops.call import Call, checked_call
from torch_attention.ops.definition import call_masks, call_scores, call_values, weighted_values
from torch_attention.ops.dispatch import Restrictions, output_of
from torch_attention.ops.softmax import masked_softmax, sink_softmax
from torch_attention.outputs import AttentionOutput, CachedOutput, attention_output


class Seen(NamedTuple):
    """Inputs of the attention equation: queries, keys and values after cache lookup and positional encoding.

    Attributes:
        query: queries, `(batch, heads, length, head_dim)`.
        key: keys, `(batch, kv_heads, slots, head_dim)`, the cached ones before the new ones.
        value: values, `(batch, kv_heads, slots, value_dim)`.
        bias: bias from the positional encoding, added to the scores; None for none.
        mask: boolean mask, True where a query may attend to a key; None for no mask.
        entries: all cached and new entries, such as a `KeyValue`.
        cache: KV cache for the next call; None without one.
        scoring: causality, window, offset of the first query and scale, as in `ops.dot_product_attention`.
        need_weights: whether to return the attention weights.
        dropout: dropout layer of the attention weights.
        dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.
        implementation: name of the implementation for calls without weights; None for the fastest.
    """

    query: Float[Tensor, "batch heads length head_dim"]
    key: Float[Tensor, "batch kv_heads slots head_dim"]
    value: Float[Tensor, "batch kv_heads slots value_dim"]
    bias: Float[Tensor, "..."] | None
    mask: Bool[Tensor, "..."] | None
    entries: Any
    cache: Any
    scoring: Restrictions
    need_weights: bool
    dropout: Dropout
    dropout_keep: Bool[Tensor, "..."] | None
    implementation: str | None = None

    def attend(
        self, *, softcap: float | None = None, sinks: Float[Tensor, "heads"] | None = None
    ) -> tuple[
        Float[Tensor, "batch heads length value_dim"], Float[Tensor, "batch heads length slots"] | None
    ]:
        """Apply the attention equation: softmax of the scores, then the weighted mean of the values.

        Args:
            softcap, sinks: as in `ops.dot_product_attention_weights`.

        Returns:
            Output of each head, and the attention weights before dropout; None for the weights without `need_weights`.
        """
        call = self.sampled().call(softcap, sinks)
        if not self.need_weights:
            return output_of(call, self.implementation), None
        check_reference(self.implementation, "weights")
        scores, mask = call_scores(call)  # batch heads length slots
        weights = masked_softmax(scores, mask) if sinks is None else sink_softmax(scores, sinks, mask)
        return call_values(call, weights), weights

    def sampled(self) -> "Seen":
        """Copy with a dropout mask: the given one, else a sampled one, else None outside training."""
        keep = self.dropout.keep_weights(self.query, self.key, self.dropout_keep)
        return self._replace(dropout_keep=keep)

    def with_bias(self, bias: Float[Tensor, "..."]) -> "Seen":
        """Copy with `bias` added to the bias of the positional encoding."""
        return self._replace(bias=bias if self.bias is None else bias + self.bias)

    def with_mask(self, mask: Bool[Tensor, "..."]) -> "Seen":
        """Copy with `mask` combined with the present mask by a logical and."""
        return self._replace(mask=mask if self.mask is None else and_masks(mask, self.mask))

    def with_window(self, window: int) -> "Seen":
        """Copy with a sliding window: each query attends to at most `window` keys, its own included."""
        scoring: Restrictions = {**self.scoring, "window": window}
        return self._replace(scoring=scoring)

    def visible(self) -> Bool[Tensor, "..."] | None:
        """Combined mask of all restrictions, with the rank of the scores; None if every query attends to every key."""
        return call_masks(self._replace(value=self.key).call())[1]

    def scores(self) -> tuple[Float[Tensor, "batch heads length slots"], Bool[Tensor, "..."] | None]:
        """Scores in at least float32 and the combined mask, for classes whose weights are not a softmax."""
        return call_scores(self._replace(value=self.key).call())  # the values may have another dtype

    def read(
        self, weights: Float[Tensor, "batch heads length slots"]
    ) -> Float[Tensor, "batch heads length value_dim"]:
        """Weighted sum of the values for given attention weights, with dropout in training."""
        check_reference(self.implementation, "weights that are not a softmax")
        seen = self.sampled()
        rate = 0.0 if seen.dropout_keep is None else self.dropout.rate
        return weighted_values(weights, self.value, dropout_keep=seen.dropout_keep, dropout_rate=rate)

    def answer(
        self,
        output: Float[Tensor, "batch length dim"],
        weights: Float[Tensor, "batch heads length slots"] | None,
    ) -> AttentionOutput | CachedOutput:
        """Build the result of the call, with the cache if there is one, and with weights if `need_weights`."""
        return attention_output(output, weights if self.need_weights else None, self.cache)

    def call(self, softcap: float | None = None, sinks: Float[Tensor, "heads"] | None = None) -> Call:
        """Checked call of the attention equation, for functions that need its parts."""
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
    """Raise NotImplementedError unless the implementation is the reference, the only one that returns weights."""
    if implementation not in (None, "reference"):
        raise NotImplementedError(
            f"{what} are computed by implementation='reference' alone, got {implementation!r}; "
            "need_weights=False skips them"
        )
