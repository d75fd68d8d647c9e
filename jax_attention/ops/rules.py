"""How the products of a tile of queries and keys become scores, and whom each query sees."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.ops.visibility import Visibility, sees


class Place(NamedTuple):
    """Where in the plane of queries and keys a tile lies.

    Attributes:
        batch: numbers of the batch elements.
        heads: numbers of the query heads.
        queries: numbers of the queries.
        keys: numbers of the keys; all four broadcast against each other and against the tile.
    """

    batch: Int[Array, "..."]
    heads: Int[Array, "..."]
    queries: Int[Array, "... row 1"]
    keys: Int[Array, "column"]


@runtime_checkable
class Rule(Protocol):
    """What blockwise attention must be told of a kind of attention."""

    @property
    def scale(self) -> float:
        """Factor on the products of queries and keys."""

    def score(
        self,
        products: Float[Array, "... row column"],
        bias: Float[Array, "..."] | None,
        arrays: tuple[Array, ...],
        known: Any,
        place: Place,
    ) -> Float[Array, "... row column"]:
        """The scores of a tile, from scaled products, the tile's bias and arrays that are learned."""

    def visible(self, known: Any, place: Place) -> Bool[Array, "..."]:
        """Whom each query of a tile sees, from what is known and not learned."""


@dataclass(frozen=True)
class DotProductRule:
    """The rule of `dot_product_attention`: scale, bias, softcap, and what is hidden by place.

    Attributes:
        scale, softcap: as in `dot_product_attention_weights`.
    """

    scale: float
    softcap: float | None

    def score(
        self,
        products: Float[Array, "... row column"],
        bias: Float[Array, "..."] | None,
        arrays: tuple[Array, ...],
        known: Any,
        place: Place,
    ) -> Float[Array, "... row column"]:
        """Biased and bent products."""
        scores = products if bias is None else products + bias
        if self.softcap is not None:
            scores = self.softcap * jnp.tanh(scores / self.softcap)
        return scores

    def visible(self, known: Visibility, place: Place) -> Bool[Array, "..."]:
        """The keys that `known` shows."""
        seen = sees(known, place.batch, place.queries, place.keys[None])
        return place.keys[None] >= 0 if seen is None else seen
