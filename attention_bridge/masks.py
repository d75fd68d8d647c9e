"""Convert masks between this package and other libraries.

The mirrors have one convention: a boolean mask, True where a query may attend to a key, of shape `(query, key)`,
`(batch, query, key)` or `(batch|1, heads|1, query|1, key)`; additive masks are a separate bias; `window=W` counts W
keys, the query's own included; `query_offset` is the position of the first query. Other libraries differ:

| function       | polarity and kind                          | further differences                           |
|----------------|--------------------------------------------|-----------------------------------------------|
| `torch_mha`    | True masks; floats are added               | `(batch * heads, query, key)`, a padding mask |
| `torch_sdpa`   | True attends; floats are added             | missing axes are leading axes                 |
| `jax_nn`       | True attends; a separate bias              | missing axes lead; windows count W + 1        |
| `flax`         | cast to boolean: 0 and -inf are inverted   | missing axes are leading axes                 |
| `keras`        | cast to boolean: 0 and -inf are inverted   | `(batch, query, key)`, padding of sequences   |
| `transformers` | 0 attends, the lowest number masks         | `(batch, 1, query, key)`                      |

`from_*` converts the library's masks to a `Restriction`, `to_*` converts back. Arrays are NumPy arrays or anything
that NumPy can convert.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray


class Restriction(NamedTuple):
    """Mask, bias and window in the convention of this package: arguments of `ops.dot_product_attention`.

    Attributes:
        mask: boolean mask, True where a query may attend to a key; None for no mask.
        bias: additive bias of the scaled scores; None for none.
        is_causal, window, query_offset: as in `ops.dot_product_attention`.
    """

    mask: Array | None = None
    bias: Array | None = None
    is_causal: bool = False
    window: int | None = None
    query_offset: int = 0


def from_torch_mha(
    attn_mask: Any = None, key_padding_mask: Any = None, *, num_heads: int, is_causal: bool = False
) -> Restriction:
    """Convert the masks of `torch.nn.MultiheadAttention`.

    Args:
        attn_mask: mask `(query, key)` or `(batch * heads, query, key)`; True masks a key, floats are added to the
            scores.
        key_padding_mask: padding mask `(batch, key)`; True masks a key, floats are added to the scores.
        num_heads: number of heads of the layer.
        is_causal: hint that `attn_mask` is causal; it restricts nothing itself.

    Raises:
        TypeError: a mask holds integers.
        ValueError: a mask has another shape, or `is_causal` is given without `attn_mask`, an error in PyTorch too.
    """
    if is_causal and attn_mask is None:
        raise ValueError("is_causal needs attn_mask in torch.nn.MultiheadAttention, got attn_mask=None")
    mask, bias = None, None
    if attn_mask is not None:
        x = _array("attn_mask", attn_mask)
        if x.ndim == 3:
            if x.shape[0] % num_heads:
                raise ValueError(
                    f"attn_mask must have shape (batch * {num_heads}, query, key), got {tuple(x.shape)}"
                )
            x = x.reshape(-1, num_heads, *x.shape[1:])  # batch heads query key
        elif x.ndim != 2:
            raise ValueError(
                f"attn_mask must have shape (query, key) or (batch * heads, query, key), got {tuple(x.shape)}"
            )
        mask, bias = _hidden_or_added(x)
    if key_padding_mask is not None:
        x = _array("key_padding_mask", key_padding_mask)
        if x.ndim != 2:
            raise ValueError(f"key_padding_mask must have shape (batch, key), got {tuple(x.shape)}")
        hidden, added = _hidden_or_added(x[:, None, None])  # batch 1 1 key
        mask, bias = _both(mask, hidden), added if bias is None else bias if added is None else bias + added
    return Restriction(mask, bias)


def to_torch_mha(restriction: Restriction, *, shape: tuple[int, int, int, int]) -> dict[str, Array | None]:
    """Convert to `attn_mask` of `torch.nn.MultiheadAttention`, `(query, key)` or `(batch * heads, query, key)`.

    Args:
        restriction: mask, bias and window in this package's convention.
        shape: shape of the weights, `(batch, heads, query, key)`.
    """
    batch, heads, query_len, key_len = shape
    visible, bias = _whole(restriction, query_len, key_len)
    if visible is None and bias is None:
        return {"attn_mask": None}
    given = [x for x in (visible, bias) if x is not None]
    flat = all(x.ndim == 2 for x in given)
    full = (query_len, key_len) if flat else shape
    x = _shape_to(bias, full) if bias is not None else ~_shape_to(visible, full)
    if bias is not None and visible is not None:
        x = np.where(_shape_to(visible, full), x, -np.inf)
    return {"attn_mask": x if flat else x.reshape(batch * heads, query_len, key_len)}


def from_torch_sdpa(attn_mask: Any = None, *, is_causal: bool = False) -> Restriction:
    """Convert the mask of `scaled_dot_product_attention`: boolean, or a float that is added to the scores.

    Raises:
        TypeError: the mask holds integers.
        ValueError: `attn_mask` and `is_causal` are both given, an error in PyTorch too.
    """
    if attn_mask is None:
        return Restriction(is_causal=is_causal)
    if is_causal:
        raise ValueError("attn_mask and is_causal cannot be given together to scaled_dot_product_attention")
    x = _array("attn_mask", attn_mask)
    x = _in_front(x)
    return Restriction(mask=x) if x.dtype == bool else Restriction(bias=x)


def to_torch_sdpa(restriction: Restriction, *, query_len: int, key_len: int) -> dict[str, Any]:
    """Convert to `attn_mask` and `is_causal` of `scaled_dot_product_attention`, undefined in fully masked rows."""
    plain = restriction.mask is None and restriction.bias is None and restriction.window is None
    if plain and restriction.is_causal and restriction.query_offset == 0:
        return {"attn_mask": None, "is_causal": True}
    visible, bias = _whole(restriction, query_len, key_len)
    if bias is None:
        return {"attn_mask": None if visible is None else _with_heads(visible), "is_causal": False}
    bias = _with_heads(bias)
    shown = bias if visible is None else np.where(_with_heads(visible), bias, -np.inf)
    return {"attn_mask": shown, "is_causal": False}


def from_jax_nn(
    bias: Any = None,
    mask: Any = None,
    *,
    is_causal: bool = False,
    local_window_size: int | tuple[int, int] | None = None,
) -> Restriction:
    """Convert the masks of `jax.nn.dot_product_attention`, whose window `(l, 0)` counts l keys besides the query's own.

    Raises:
        TypeError: the mask is not boolean.
        ValueError: the window includes later keys, which this package does not support.
    """
    if mask is not None:
        mask = _array("mask", mask)
        if mask.dtype != bool:
            raise TypeError(f"mask must be boolean for jax.nn.dot_product_attention, got {mask.dtype}")
        mask = _in_front(mask)
    bias = None if bias is None else _in_front(_array("bias", bias))
    if local_window_size is None:
        return Restriction(mask, bias, is_causal)
    left, right = (
        (local_window_size, local_window_size) if isinstance(local_window_size, int) else local_window_size
    )
    if right != 0 and not is_causal:
        raise ValueError(
            f"local_window_size must end at the query, (l, 0), or be causal: got {local_window_size}"
        )
    return Restriction(mask, bias, True, left + 1)


def to_jax_nn(restriction: Restriction, *, query_len: int, key_len: int) -> dict[str, Any]:
    """Convert to `bias`, `mask`, `is_causal` and `local_window_size` of `jax.nn.dot_product_attention`."""
    mask, bias = (None if x is None else _with_heads(x) for x in (restriction.mask, restriction.bias))
    if restriction.query_offset == 0:
        window = None if restriction.window is None else (restriction.window - 1, 0)
        causal = restriction.is_causal and window is None
        return {"bias": bias, "mask": mask, "is_causal": causal, "local_window_size": window}
    visible, _ = _whole(restriction._replace(bias=None), query_len, key_len)
    shown = None if visible is None else _with_heads(visible)
    return {"bias": bias, "mask": shown, "is_causal": False, "local_window_size": None}


def from_flax(mask: Any = None) -> Restriction:
    """Convert the mask of a Flax attention layer, NNX or Linen.

    Raises:
        TypeError: the mask holds numbers other than 0 and 1; Flax would cast -inf to True and attend to masked keys.
    """
    return Restriction() if mask is None else Restriction(mask=_in_front(_zeros_and_ones("mask", mask)))


def to_flax(restriction: Restriction, *, query_len: int, key_len: int) -> dict[str, Array | None]:
    """Convert to the `mask` of a Flax attention layer.

    Raises:
        ValueError: there is a bias, which these layers do not take.
    """
    visible = _without_bias(restriction, query_len, key_len, "a Flax attention layer")
    return {"mask": None if visible is None else _with_heads(visible)}


def from_keras(
    attention_mask: Any = None,
    *,
    query_mask: Any = None,
    value_mask: Any = None,
    key_mask: Any = None,
    use_causal_mask: bool = False,
) -> Restriction:
    """Convert the masks of `keras.layers.MultiHeadAttention`.

    Args:
        attention_mask: mask `(batch|1, query, key)`, True where a query may attend to a key.
        query_mask: mask `(batch, query)`; False makes a fully masked row.
        value_mask, key_mask: masks `(batch, key)`, True at real keys.
        use_causal_mask: whether to mask later keys.

    Raises:
        TypeError: a mask holds numbers other than 0 and 1; Keras would cast -inf to True and attend to masked keys.
    """
    mask = None if attention_mask is None else _zeros_and_ones("attention_mask", attention_mask)
    if mask is not None and mask.ndim == 3:
        mask = mask[:, None]  # batch 1 query key
    named = (("query_mask", query_mask), ("value_mask", value_mask), ("key_mask", key_mask))
    for name, given in named:
        if given is not None:
            x = _zeros_and_ones(name, given)
            mask = _both(mask, x[:, None, :, None] if name == "query_mask" else x[:, None, None])
    if mask is not None and mask.ndim == 4 and mask.shape[-1] == 1:
        raise ValueError("query_mask alone does not say how many keys there are: give attention_mask too")
    return Restriction(mask, is_causal=use_causal_mask)


def to_keras(restriction: Restriction, *, query_len: int, key_len: int) -> dict[str, Array | None]:
    """Convert to `attention_mask` of `keras.layers.MultiHeadAttention`, `(batch|1, query, key)`.

    Raises:
        ValueError: there is a bias, or the mask differs between heads; the layer takes neither.
    """
    visible = _without_bias(restriction, query_len, key_len, "keras.layers.MultiHeadAttention")
    if visible is None:
        return {"attention_mask": None}
    visible = _with_heads(visible)
    if visible.shape[1] != 1:
        raise ValueError(
            f"mask must be the same for all heads in keras.layers.MultiHeadAttention, got {visible.shape[1]}"
        )
    shape = (visible.shape[0], query_len, key_len)
    return {"attention_mask": np.broadcast_to(visible[:, 0], shape)}


def from_transformers(attention_mask: Any) -> Restriction:
    """Convert an additive mask of Hugging Face models: 0 attends, the lowest number of the dtype or -inf masks.

    Raises:
        TypeError: the mask is not floating-point.
        ValueError: the mask holds other numbers, which are a bias.
    """
    x = np.asarray(attention_mask)
    if x.dtype.kind != "f":
        raise TypeError(f"attention_mask must be an additive mask, floating-point, got {x.dtype}")
    hides = (x == np.finfo(x.dtype).min) | np.isneginf(x)
    if not (hides | (x == 0)).all():
        raise ValueError(
            "attention_mask must hold only 0 and the lowest number of its dtype: other numbers are a bias"
        )
    return Restriction(mask=_in_front(~hides))


def to_transformers(
    restriction: Restriction, *, query_len: int, key_len: int, dtype: Any = np.float32
) -> dict[str, Array | None]:
    """Convert to the additive `attention_mask` of a Hugging Face model, `(batch|1, heads|1, query, key)`.

    Raises:
        ValueError: there is a bias, which could not be told apart from the mask.
    """
    visible = _without_bias(restriction, query_len, key_len, "a Hugging Face mask")
    if visible is None:
        return {"attention_mask": None}
    least = np.finfo(dtype).min
    return {"attention_mask": np.where(_with_heads(visible), 0, least).astype(dtype)}


def lower_right(query_len: int, key_len: int) -> Restriction:
    """Causal mask aligned to the lower right corner, as `torch.nn.attention.bias.causal_lower_right`.

    `is_causal` of this package, PyTorch and JAX aligns the mask to the upper left corner.
    """
    return Restriction(is_causal=True, query_offset=key_len - query_len)


def _array(name: str, x: Any) -> Array:
    """Convert a mask to an array; raise TypeError unless it is boolean or floating-point."""
    found = np.asarray(x)
    if found.dtype != bool and found.dtype.kind != "f":
        raise TypeError(f"{name} must be boolean or a float that is added to scores, got {found.dtype}")
    return found


def _zeros_and_ones(name: str, x: Any) -> Array:
    """Cast a mask to boolean, as Flax and Keras do; raise TypeError unless it is boolean or 0/1."""
    found = np.asarray(x)
    if found.dtype != bool and not ((found == 0) | (found == 1)).all():
        raise TypeError(
            f"{name} must hold True and False, or 0 and 1, got other numbers in {found.dtype}: "
            "additive masks are inverted here, because 0 is cast to False and -inf to True"
        )
    return found.astype(bool)


def _hidden_or_added(x: Array) -> tuple[Array | None, Array | None]:
    """Split an array into mask and bias: a boolean array masks where it is True, a float array is a bias."""
    return (~x, None) if x.dtype == bool else (None, x)


def _both(one: Array | None, other: Array | None) -> Array | None:
    """Combine two masks of any rank: True where both are True."""
    if one is None or other is None:
        return other if one is None else one
    return _with_heads(one) & _with_heads(other)


def _with_heads(x: Array) -> Array:
    """Expand a mask of rank 2 to 4 to `(batch|1, heads|1, query|1, key)`."""
    return x[None, None] if x.ndim == 2 else x[:, None] if x.ndim == 3 else x


def _in_front(x: Array) -> Array:
    """Add the missing leading axis of a mask `(heads, query, key)`, which this package would take for the batch."""
    return x[None] if x.ndim == 3 else x


def _shape_to(x: Array | None, shape: tuple[int, ...]) -> Array:
    assert x is not None
    return np.broadcast_to(x if x.ndim == len(shape) else _with_heads(x), shape)


def _whole(restriction: Restriction, query_len: int, key_len: int) -> tuple[Array | None, Array | None]:
    """Merge mask, causality and window into one mask; return it with the bias."""
    mask = restriction.mask
    if restriction.is_causal:
        query = np.arange(query_len)[:, None] + restriction.query_offset
        key = np.arange(key_len)
        seen = key <= query
        if restriction.window is not None:
            seen = seen & (key > query - restriction.window)
        mask = seen if mask is None else mask & seen if mask.ndim == 2 else _both(mask, seen)
    return mask, restriction.bias


def _without_bias(restriction: Restriction, query_len: int, key_len: int, taker: str) -> Array | None:
    if restriction.bias is not None:
        raise ValueError(f"bias must be None for {taker}, which cannot add one, got {restriction.bias.shape}")
    return _whole(restriction, query_len, key_len)[0]
