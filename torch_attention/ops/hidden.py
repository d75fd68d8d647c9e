"""Masked keys and values have no influence, whatever they hold: 0 · NaN is NaN, so a weight of zero is not enough.

The reference implementation hides a value from each query that does not attend to it (`finite`, `spoiled_scores`,
`spoiled_output`). Other implementations promise it for keys that no query attends to, such as padding and unwritten
slots of a KV cache: `without_dead_keys` replaces them by zeros.
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.masks import causal_mask, sliding_window_mask
from torch_attention.ops.call import Call
from torch_attention.ops.known import known_finite


def finite(x: Float[Tensor, "... key dim"]) -> Float[Tensor, "... key dim"]:
    """`x` with 0 in place of NaN and inf."""
    return x if known_finite(x) else torch.where(torch.isfinite(x), x, 0.0)


def spoiled_scores(
    scores: Float[Tensor, "... query key"], key: Float[Tensor, "... key head_dim"], mask: Bool[Tensor, "..."]
) -> Float[Tensor, "... query key"]:
    """Scores of `finite` keys, NaN where the query attends to a key that is not finite."""
    if known_finite(key):
        return scores
    bad = ~torch.isfinite(key).all(dim=-1)[..., None, :]  # ... heads 1 key
    # Adding keeps the memory layout of the scores; `where` would take the mask's, and round otherwise after it.
    return scores + torch.where(bad & mask, torch.nan, 0.0)


def spoiled_output(
    output: Float[Tensor, "... query value_dim"],
    weights: Float[Tensor, "... query key"],
    value: Float[Tensor, "... key value_dim"],
) -> Float[Tensor, "... query value_dim"]:
    """Output from `finite` values, NaN where a weight other than zero falls on a value that is not finite."""
    if known_finite(value):
        return output
    bad = ~torch.isfinite(value).all(dim=-1)[..., None, :]  # ... heads 1 key
    return torch.where(((weights != 0) & bad).any(dim=-1, keepdim=True), torch.nan, output)


def ignoring_dead_keys(run: Callable[[Call], Tensor]) -> Callable[[Call], Tensor]:
    """The same implementation, for which a key that is masked for every query holds zeros."""
    return lambda call: run(without_dead_keys(call))


def without_dead_keys(call: Call) -> Call:
    """The call with zeros for keys and values that no query of their batch element and head attends to."""
    alive = _alive(call)
    if alive is None:
        return call
    kv_heads = call.key.shape[-3]
    if alive.ndim > 1 and alive.shape[-2] > kv_heads:  # several query heads share a key/value head
        group = alive.shape[-2] // kv_heads
        alive = alive.reshape(*alive.shape[:-2], kv_heads, group, alive.shape[-1]).any(dim=-2)
    alive = alive[(None,) * (call.key.ndim - 1 - alive.ndim)][..., None]  # ... kv_heads|1 key|1 1
    return call._replace(key=torch.where(alive, call.key, 0.0), value=torch.where(alive, call.value, 0.0))


def _alive(call: Call) -> Bool[Tensor, "... key"] | None:
    """Whether any query attends to each key; None where all do for sure."""
    pairs = call.mask
    if call.bias is not None and not known_finite(call.bias):
        seen = call.bias != -torch.inf
        pairs = seen if pairs is None else pairs & seen
    if pairs is not None and call.is_causal and pairs.shape[-2] != 1:
        lengths, offset = (call.query.shape[-2], call.key.shape[-2]), call.query_offset
        if call.window is None:
            seen = causal_mask(*lengths, query_offset=offset, device=call.query.device)
        else:
            seen = sliding_window_mask(
                *lengths, window=call.window, query_offset=offset, device=call.query.device
            )
        pairs = pairs & seen[(None,) * (pairs.ndim - 2)]
        return pairs.any(dim=-2)
    alive = None if pairs is None else pairs.any(dim=-2)
    reached = _reached(call)
    if alive is not None and reached is not None:
        reached = reached[(None,) * (alive.ndim - 1)]
    return reached if alive is None else alive if reached is None else alive & reached


def _reached(call: Call) -> Bool[Tensor, "key"] | None:
    """Whether a causal call reaches each key from any query; None where it reaches all for sure."""
    if not call.is_causal:
        return None
    query_len, key_len, offset = call.query.shape[-2], call.key.shape[-2], call.query_offset
    if isinstance(offset, int) and (call.window is None or offset < call.window):
        if query_len == key_len and offset >= 0:
            return None
        if isinstance(query_len, int) and isinstance(key_len, int) and offset + query_len >= key_len:
            return None
    key = torch.arange(call.key.shape[-2], device=call.query.device)
    reached = key < offset + query_len
    return reached if call.window is None else reached & (key > offset - call.window)
