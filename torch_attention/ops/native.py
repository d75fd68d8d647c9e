"""PyTorch's own fused kernel, `scaled_dot_product_attention`, made to obey the contract.

By itself it promises nothing for a mask together with `is_causal`, wants its bias in the dtype of the query, and
what a fully masked row gives is up to the kernel. Here all restrictions become one mask, and a row with nothing
to see is shown everything inside the kernel and set to zero after it, so that no kernel meets an empty row.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from torch_attention.ops.definition import resolve_masks

NAME = "sdpa"


def native_refusal(
    query: Float[Tensor, "..."],
    value: Float[Tensor, "..."],
    *,
    softcap: float | None,
    dropout_keep: Bool[Tensor, "..."] | None,
) -> str | None:
    """One sentence that says what the kernel cannot do of this call, or None."""
    if softcap is not None:
        return "scaled_dot_product_attention has no softcap"
    if dropout_keep is not None:
        return "scaled_dot_product_attention takes no dropout mask"
    return None


def native_attention(
    query: Float[Tensor, "*batch heads query head_dim"],
    key: Float[Tensor, "*batch kv_heads key head_dim"],
    value: Float[Tensor, "*batch kv_heads key value_dim"],
    bias: Float[Tensor, "..."] | None = None,
    mask: Bool[Tensor, "..."] | None = None,
    *,
    is_causal: bool = False,
    window: int | None = None,
    query_offset: int | Int[Tensor, ""] = 0,
    scale: float | None = None,
) -> Float[Tensor, "*batch heads query value_dim"]:
    """`dot_product_attention` through the fused kernel; arguments as there."""
    grouped = key.shape[-3] != query.shape[-3]
    only_causal = is_causal and bias is None and mask is None and window is None
    if only_causal and isinstance(query_offset, int) and query_offset == 0:
        return F.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=scale, enable_gqa=grouped
        )

    shape = (*query.shape[:-1], key.shape[-2])
    bias, visible = resolve_masks(
        shape, bias, mask, is_causal=is_causal, window=window, query_offset=query_offset, device=query.device
    )
    if visible is None:
        return F.scaled_dot_product_attention(query, key, value, scale=scale, enable_gqa=grouped)
    alive = visible.any(dim=-1, keepdim=True)  # ... query 1
    visible = visible | ~alive
    restriction = visible if bias is None else torch.where(visible, bias, -torch.inf).to(query.dtype)
    output = F.scaled_dot_product_attention(
        query, key, value, attn_mask=restriction, scale=scale, enable_gqa=grouped
    )
    return torch.where(alive, output, 0.0)
