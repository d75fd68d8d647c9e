"""Checks of shapes, dtypes and values, with one-sentence errors, run before any arithmetic."""

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from torch_attention.arrays import check_array, is_floating
from torch_attention.ranges import as_flag, refuse

# Meaning of True in each boolean argument, and advice for arrays of another dtype.
_MEANINGS = {
    "mask": (
        "the query attends to the key",
        "; .bool() or .astype(bool) converts it, additive values go in bias",
    ),
    "dropout_keep": ("the entry is kept", ""),
    "global_tokens": ("the token attends to all tokens, and all attend to it", ""),
    "keep": ("the entry is kept", ""),
}


def dtype_name(x: Tensor) -> str:
    """Name of the dtype of `x`, as `float32`."""
    return str(x.dtype).removeprefix("torch.")


def check_divisible(**sizes: int) -> None:
    """Raise ValueError unless the first named size is a multiple of the second."""
    (whole_name, whole), (part_name, part) = sizes.items()
    if part < 1 or whole % part:
        raise ValueError(
            f"{whole_name} must be divisible by {part_name}, got {whole_name}={whole} and {part_name}={part}"
        )


def check_rate(rate: float) -> None:
    """Raise ValueError unless `rate` is a probability below 1."""
    if not 0.0 <= rate < 1.0:
        raise ValueError(f"dropout must be at least 0 and below 1, got {rate}")


def check_sequence(name: str, x: Tensor, dim: int | None = None, batch: int | None = None) -> None:
    """Raise ValueError unless `x` has shape `(batch, length, dim)`; a size of None accepts any."""
    if x.ndim == 3 and has_size(x.shape[-1], dim) and has_size(x.shape[0], batch):
        return
    expected = f"({'batch' if batch is None else batch}, length, {'dim' if dim is None else dim})"
    raise ValueError(f"{name} must have shape {expected}, got {tuple(x.shape)}")


def has_size(size: int, expected: int | None) -> bool:
    """Whether an axis has the expected size; None accepts any.

    Sizes may be symbolic in compiled code, so they are compared with `==` alone, not inside tuples or strings.
    """
    return expected is None or size == expected


def check_same_length(**sequences: Tensor) -> None:
    """Raise ValueError unless both named sequences `(batch, length, dim)` have the same length."""
    (name, x), (other, y) = sequences.items()
    if x.shape[1] != y.shape[1]:
        raise ValueError(f"{name} and {other} must have the same length, got {x.shape[1]} and {y.shape[1]}")


def check_tokens(tokens: Tensor, name: str = "tokens") -> None:
    """Raise ValueError unless `tokens` has shape `(batch, length)`."""
    if tokens.ndim != 2:
        raise ValueError(f"{name} must have shape (batch, length), got {tuple(tokens.shape)}")


def check_query_key_value(
    query: Tensor, key: Tensor, value: Tensor, query_dim: int | None = None, key_dim: int | None = None
) -> None:
    """Raise ValueError unless all three have shape `(batch, length, dim)`, with one value per key."""
    check_sequence("query", query, query_dim)
    check_sequence("key", key, key_dim, batch=query.shape[0])
    check_sequence("value", value, batch=query.shape[0])
    check_same_length(key=key, value=value)


def check_attention(query: Tensor, key: Tensor, value: Tensor | None = None) -> None:
    """Raise unless the arrays are floating point, `(..., heads, length, head_dim)`, and have matching shapes.

    Keys and values with a batch of 1 are broadcast over the batch of the queries.
    """
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x is None:
            continue
        check_floating(name, x)
        if x.ndim < 3:
            raise ValueError(f"{name} must have shape (..., heads, length, head_dim), got {tuple(x.shape)}")
    if key.dtype != query.dtype or (value is not None and value.dtype != query.dtype):
        names = ", ".join(dtype_name(x) for x in (query, key, value) if x is not None)
        raise ValueError(f"query, key and value must have the same dtype, got {names}")
    if query.shape[-1] != key.shape[-1]:
        raise ValueError(
            f"query and key must have the same head_dim, got {query.shape[-1]} and {key.shape[-1]}"
        )
    if query.shape[-1] == 0:
        raise ValueError("query and key must have a head_dim of at least 1, got 0")
    if query.ndim != key.ndim or not _broadcasts(key.shape[:-3], query.shape[:-3]):
        raise ValueError(
            f"query and key must have the same batch, got {tuple(query.shape[:-3])} and {tuple(key.shape[:-3])}"
        )
    check_divisible(num_heads=query.shape[-3], num_kv_heads=key.shape[-3])
    if value is not None and value.shape[:-1] != key.shape[:-1]:
        raise ValueError(
            "key and value must have the same batch, heads and length, "
            f"got {tuple(key.shape[:-1])} and {tuple(value.shape[:-1])}"
        )


def check_floating(name: str, x: Any) -> None:
    """Raise TypeError unless `x` is a floating-point array of at least 16 bits."""
    check_array(name, x)
    if not is_floating(x):
        raise TypeError(f"{name} must be floating point, got {dtype_name(x)}")
    if x.dtype.itemsize < 2:
        raise TypeError(f"{name} must have at least 16 bits, got {dtype_name(x)}; convert it to float32, say")


def check_flag(**flags: Any) -> None:
    """Raise TypeError unless every named argument is True or False."""
    for name, flag in flags.items():
        as_flag(name, flag)


def check_boolean(name: str, mask: Tensor) -> None:
    """Raise TypeError unless `mask` is boolean; additive values belong in a bias."""
    check_array(name, mask)
    if mask.dtype != torch.bool:
        means, instead = _MEANINGS.get(name, _MEANINGS["mask"])
        raise TypeError(f"{name} must be boolean (True: {means}), got {dtype_name(mask)}{instead}")


def check_key_mask(mask: Tensor | None, batch: int, key_len: int, *, name: str = "mask") -> None:
    """Raise unless `mask` masks whole keys, with shape `(batch|1, 1, 1, key)`, as `padding_mask` returns it."""
    if mask is None or tuple(mask.shape) != (1, 1, 1, key_len):
        check_padding_mask(mask, batch, key_len, name=name)
    else:
        check_boolean(name, mask)


def check_padding_mask(mask: Tensor | None, batch: int, key_len: int, *, name: str = "mask") -> None:
    """Raise unless `mask` masks whole keys per batch element, with shape `(batch, 1, 1, key)`."""
    if mask is None:
        return
    check_boolean(name, mask)
    if tuple(mask.shape) != (batch, 1, 1, key_len):
        raise ValueError(
            f"{name} must have shape (batch, 1, 1, key) = {(batch, 1, 1, key_len)} here, "
            f"as padding_mask(tokens, pad_id) gives it, got {tuple(mask.shape)}"
        )


def check_state(name: str, state: Tensor, shape: Sequence[int]) -> None:
    """Raise ValueError unless an array of a recurrent state has the layer's state shape."""
    if tuple(state.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)}, got {tuple(state.shape)}")


def check_positive(**sizes: int) -> None:
    """Raise ValueError unless every named size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


def check_at_least(least: int, **sizes: int) -> None:
    """Raise ValueError unless every named size is at least `least`."""
    for name, size in sizes.items():
        if size < least:
            raise ValueError(f"{name} must be at least {least}, got {size}")


def check_above_zero(**numbers: float) -> None:
    """Raise ValueError unless every named number is above 0."""
    for name, number in numbers.items():
        if not number > 0:
            raise ValueError(f"{name} must be above 0, got {number}")


def check_window(window: int | None, is_causal: bool) -> None:
    """Raise ValueError unless `window` is at least 1 and the attention is causal."""
    if window is None:
        return
    if isinstance(window, bool) or not isinstance(window, Integral):
        refuse("window", "an integer", window)
    if window < 1:
        raise ValueError(f"window must be at least 1 (it counts the query's own key), got {window}")
    if not is_causal:
        raise ValueError(
            "window counts keys backwards from the query and needs is_causal=True, got is_causal=False"
        )


def check_keep(dropout_keep: Tensor | None, shape: Sequence[int]) -> None:
    """Raise unless `dropout_keep` is None, or boolean and of exactly the given shape."""
    if dropout_keep is None:
        return
    check_boolean("dropout_keep", dropout_keep)
    if tuple(dropout_keep.shape) != tuple(shape):
        raise ValueError(f"dropout_keep must have shape {tuple(shape)}, got {tuple(dropout_keep.shape)}")


def check_sinks(sinks: Tensor | None, query: Tensor) -> None:
    """Raise unless `sinks` is None, or holds one floating-point number per query head."""
    if sinks is None:
        return
    check_floating("sinks", sinks)
    if tuple(sinks.shape) != (query.shape[-3],):
        raise ValueError(f"sinks must have shape (heads,) = {(query.shape[-3],)}, got {tuple(sinks.shape)}")


def check_read(weights: Tensor, value: Tensor) -> None:
    """Raise ValueError unless values `(..., kv_heads, key, value_dim)` match the batch and heads of the weights."""
    if value.ndim != weights.ndim or not _broadcasts(value.shape[:-3], weights.shape[:-3]):
        raise ValueError(
            f"value must have the batch of weights, got {tuple(value.shape[:-3])} and {tuple(weights.shape[:-3])}"
        )
    check_divisible(num_heads=weights.shape[-3], num_kv_heads=value.shape[-3])


def check_pairs(
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    dropout_keep: Tensor | None = None,
    num_heads: int | None = None,
    *,
    name: str = "mask",
) -> None:
    """Raise unless the mask and the dropout mask are boolean and match the query and key lengths.

    Args:
        query: `(batch, query, ...)`.
        key: `(batch, key, ...)`.
        mask: boolean mask, True where a query may attend to a key; None for no mask.
        dropout_keep: boolean dropout mask, True keeps; None for none.
        num_heads: number of heads of the weights; None for weights without a head axis.
        name: name of the mask in error messages.
    """
    batch, query_len, key_len = *query.shape[:2], key.shape[1]
    if mask is not None:
        check_boolean(name, mask)
        align(name, mask, (batch, num_heads or 1, query_len, key_len))
    heads = () if num_heads is None else (num_heads,)
    check_keep(dropout_keep, (batch, *heads, query_len, key_len))


def align(name: str, x: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring a mask or bias to the rank of the scores it applies to.

    Args:
        name: name of the argument in error messages.
        x: mask or bias of shape `(query, key)`, `(batch..., query, key)` or `(batch..., heads, query, key)`; any
            axis may have size 1.
        shape: shape of the scores, `(batch..., heads, query, key)`.

    Returns:
        `x` with the rank of the scores. The rank alone determines the meaning of the axes, never the sizes.

    Raises:
        ValueError: another rank, or a size that does not broadcast.
    """
    *batch, _, query_len, key_len = shape
    given = tuple(x.shape)
    if x.ndim == 2 and _broadcasts(given, (query_len, key_len)):
        return x[(None,) * (len(shape) - 2)]
    if x.ndim == len(shape) - 1 and _broadcasts(given, (*batch, query_len, key_len)):
        return x[..., None, :, :]
    if x.ndim == len(shape) and _broadcasts(given, shape):
        return x
    raise ValueError(
        f"{name} must have shape (query, key) = {(query_len, key_len)}, "
        f"(batch, query, key) = {(*batch, query_len, key_len)} or "
        f"(batch|1, heads|1, query|1, key|1) = {tuple(shape)}, got {given}"
    )


def check_broadcasts(name: str, x: Tensor | None, shape: Sequence[int]) -> None:
    """Raise ValueError unless `x` broadcasts to scores of that shape; leading axes may be absent."""
    if x is None:
        return
    scores = shape[len(shape) - x.ndim :] if x.ndim else ()
    if x.ndim > len(shape) or not _broadcasts(x.shape, scores):
        raise ValueError(f"{name} must broadcast against scores {tuple(shape)}, got {tuple(x.shape)}")


def _broadcasts(given: Sequence[int], shape: Sequence[int]) -> bool:
    """Whether each axis has size 1 or the size in `shape`."""
    return all(size == 1 or size == whole for size, whole in zip(given, shape, strict=True))
