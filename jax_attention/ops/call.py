"""One call of attention, and the ways there are to answer it."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array
from jaxtyping import Bool, Float, Int


class Call(NamedTuple):
    """The arguments of `dot_product_attention`, checked; see there."""

    query: Float[Array, "*batch heads query head_dim"]
    key: Float[Array, "*batch kv_heads key head_dim"]
    value: Float[Array, "*batch kv_heads key value_dim"]
    bias: Float[Array, "..."] | None
    mask: Bool[Array, "..."] | None
    is_causal: bool
    window: int | None
    query_offset: int | Int[Array, ""]
    scale: float
    softcap: float | None
    sinks: Float[Array, "heads"] | None
    dropout_keep: Bool[Array, "..."] | None
    dropout_rate: float


class Implementation(NamedTuple):
    """One way to answer a call.

    Attributes:
        name: what `implementation=` calls it.
        refusal: one sentence that says what it cannot do of a call, or None.
        run: what each query reads.
    """

    name: str
    refusal: Callable[[Call], str | None]
    run: Callable[[Call], Array]
