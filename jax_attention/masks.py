"""Boolean attention masks: constructors and logical combinations.

True in row i and column j means that query i attends to key j. Masks are combined with and / or, never added;
values that are added to the scores are a `bias`. Every `mask` argument accepts three shapes, distinguished by
their rank: `(query, key)`, `(batch, query, key)` and `(batch|1, heads|1, query|1, key|1)`.

The examples print masks as matrices: 1 is True, 0 is False, and a blank line separates batch elements.
"""

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Int

from jax_attention.arguments import checked
from jax_attention.arrays import with_rank
from jax_attention.checks import check_at_least, check_boolean, check_positive, check_window
from jax_attention.ops.rules import bounded


@checked
def causal_mask(
    query_len: int,
    key_len: int | None = None,
    *,
    query_offset: int | Int[Array, ""] = 0,
) -> Bool[Array, "query key"]:
    """Causal mask: each query attends to its own and earlier positions (Vaswani et al. 2017, section 3.2.3).

        >>> causal_mask(4)
        1 0 0 0
        1 1 0 0
        1 1 1 0
        1 1 1 1

    The first query has position `query_offset`, such as 2 when two keys are already in a cache:

        >>> causal_mask(3, 5, query_offset=2)
        1 1 1 0 0
        1 1 1 1 0
        1 1 1 1 1
    """
    query, key = _positions(query_len, key_len, query_offset)
    return key <= query


@checked
def sliding_window_mask(
    query_len: int,
    key_len: int | None = None,
    *,
    window: int,
    query_offset: int | Int[Array, ""] = 0,
) -> Bool[Array, "query key"]:
    """Sliding-window mask: each query attends to the last `window` keys, its own included.

    Source: Child et al. 2019; Beltagy et al. 2020.

        >>> sliding_window_mask(5, window=2)
        1 0 0 0 0
        1 1 0 0 0
        0 1 1 0 0
        0 0 1 1 0
        0 0 0 1 1

    Raises:
        ValueError: `window` is below 1.
    """
    check_window(window, is_causal=True)
    query, key = _positions(query_len, key_len, query_offset)
    return (key <= query) & (key > query - window)


@checked
def chunked_mask(
    query_len: int,
    key_len: int | None = None,
    *,
    chunk_size: int,
    query_offset: int | Int[Array, ""] = 0,
) -> Bool[Array, "query key"]:
    """Chunked causal mask: each query attends to its own and earlier keys of its chunk (Llama 4, Meta 2025).

        >>> chunked_mask(5, chunk_size=2)
        1 0 0 0 0
        1 1 0 0 0
        0 0 1 0 0
        0 0 1 1 0
        0 0 0 0 1

    Raises:
        ValueError: `chunk_size` is below 1.
    """
    check_positive(chunk_size=chunk_size)
    query, key = _positions(query_len, key_len, query_offset)
    return (key <= query) & (key // chunk_size == query // chunk_size)


@checked
def streaming_mask(
    query_len: int,
    key_len: int | None = None,
    *,
    num_sinks: int,
    window: int,
    query_offset: int | Int[Array, ""] = 0,
) -> Bool[Array, "query key"]:
    """Streaming mask: each query attends to `num_sinks` first keys and `window` last ones (Xiao et al. 2023).

    The window includes the query's own key.

        >>> streaming_mask(6, num_sinks=1, window=2)
        1 0 0 0 0 0
        1 1 0 0 0 0
        1 1 1 0 0 0
        1 0 1 1 0 0
        1 0 0 1 1 0
        1 0 0 0 1 1

    Raises:
        ValueError: `num_sinks` is below 0, or `window` below 1.
    """
    check_window(window, is_causal=True)
    check_at_least(0, num_sinks=num_sinks)
    query, key = _positions(query_len, key_len, query_offset)
    return (key <= query) & ((key < num_sinks) | (key > query - window))


@checked
def prefix_mask(query_len: int, key_len: int | None = None, *, prefix_len: int) -> Bool[Array, "query key"]:
    """Prefix-LM mask: all queries attend to the first `prefix_len` keys; the rest is causal (Raffel et al. 2020).

        >>> prefix_mask(4, prefix_len=2)
        1 1 0 0
        1 1 0 0
        1 1 1 0
        1 1 1 1

    For a different prefix length per batch element: `or_masks(causal_mask(n), length_mask(prefix_lens, n))`.
    """
    query, key = _positions(query_len, key_len, 0)
    return (key <= query) | (key < prefix_len)


@checked
def padding_mask(tokens: Int[Array, "batch key"], pad_id: int) -> Bool[Array, "batch 1 1 key"]:
    """Padding mask: every query attends to the keys whose token is not `pad_id`.

    >>> padding_mask(array([[7, 8, 9], [7, 0, 0]]), pad_id=0)
    1 1 1

    1 0 0
    """
    return (tokens != pad_id)[:, None, None, :]


@checked
def length_mask(lengths: Int[Array, "batch"], key_len: int) -> Bool[Array, "batch 1 1 key"]:
    """Length mask: every query of batch element b attends to the first `lengths[b]` keys.

    >>> length_mask(array([3, 1]), 4)
    1 1 1 0

    1 0 0 0
    """
    return (jnp.arange(key_len) < lengths[:, None])[:, None, None, :]


@checked
def document_mask(
    query_documents: Int[Array, "batch query"], key_documents: Int[Array, "batch key"] | None = None
) -> Bool[Array, "batch 1 query key"]:
    """Document mask for packed sequences: each query attends to the keys of its own document.

    Padding with a document number of its own attends to itself; combine with `padding_mask` to mask it.

        >>> document_mask(array([[0, 0, 1, 1], [0, 1, 1, 2]]))
        1 1 0 0
        1 1 0 0
        0 0 1 1
        0 0 1 1

        1 0 0 0
        0 1 1 0
        0 1 1 0
        0 0 0 1
    """
    key_documents = query_documents if key_documents is None else key_documents
    return (query_documents[:, :, None] == key_documents[:, None, :])[:, None]


@checked
def and_masks(*masks: Bool[Array, "..."]) -> Bool[Array, "..."]:
    """Logical and of masks: True where every mask is True.

        >>> and_masks(causal_mask(3), padding_mask(array([[7, 8, 0]]), pad_id=0))
        1 0 0
        1 1 0
        1 1 0

    Raises:
        TypeError: a mask is not boolean.
        ValueError: no mask is given.
    """
    first, *others = _same_rank(masks)
    for other in others:
        first = first & other
    return first


@checked
def or_masks(*masks: Bool[Array, "..."]) -> Bool[Array, "..."]:
    """Logical or of masks: True where any mask is True.

        >>> or_masks(causal_mask(3), length_mask(array([2, 0]), 3))
        1 1 0
        1 1 0
        1 1 1

        1 0 0
        1 1 0
        1 1 1

    Raises:
        TypeError: a mask is not boolean.
        ValueError: no mask is given.
    """
    first, *others = _same_rank(masks)
    for other in others:
        first = first | other
    return first


@checked
def not_mask(mask: Bool[Array, "..."]) -> Bool[Array, "..."]:
    """Logical not of a mask: True where the mask is False.

        >>> not_mask(causal_mask(3))
        0 1 1
        0 0 1
        0 0 0

    Raises:
        TypeError: the mask is not boolean.
    """
    check_boolean("mask", mask)
    return ~mask


@checked
def mask_text(mask: Bool[Array, "..."]) -> str:
    """Format a mask as matrices of 1 and 0, as in these docstrings.

        >>> print(mask_text(causal_mask(3)))
        1 0 0
        1 1 0
        1 1 1

    Leading axes are flattened in order; a blank line separates the matrices.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the mask has fewer than two axes.
    """
    check_boolean("mask", mask)
    if mask.ndim < 2:
        raise ValueError(f"mask must have shape (..., query, key), got {tuple(mask.shape)}")
    matrices = mask.reshape(-1, *mask.shape[-2:]).tolist()
    return "\n\n".join("\n".join(" ".join("01"[seen] for seen in row) for row in rows) for rows in matrices)


def _positions(
    query_len: int, key_len: int | None, query_offset: int | Int[Array, ""]
) -> tuple[Int[Array, "query 1"], Int[Array, "1 key"]]:
    """Positions of the queries, as a column, and positions of the keys, as a row."""
    key_len = query_len if key_len is None else key_len
    queries, keys = (jnp.arange(length) for length in (query_len, key_len))
    return queries[:, None] + bounded(query_offset), keys[None]


def _same_rank(masks: tuple[Array, ...]) -> list[Array]:
    """Bring masks to a common rank: unchanged if their ranks agree, else rank 4."""
    if not masks:
        raise ValueError("at least one mask is needed, got none")
    for mask in masks:
        check_boolean("mask", mask)
    if len({mask.ndim for mask in masks}) == 1:
        return list(masks)
    return [mask[:, None] if mask.ndim == 3 else with_rank(mask, 4) for mask in masks]
