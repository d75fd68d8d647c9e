"""The mechanisms in PyTorch's own operations, as a user would write them, in any dtype.

Their error in bfloat16 is the yardstick for this package; in float32 they are one more independent peer. Each function
takes a state dict and the inputs of the mechanism, and returns its output.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from attention_bridge.catalogue.models import MODEL_SIZES
from attention_bridge.catalogue.shared import HEADS

Parameters = Mapping[str, Tensor]


def _linear(parameters: Parameters, name: str, x: Tensor) -> Tensor:
    return F.linear(x, parameters[f"{name}.weight"], parameters.get(f"{name}.bias"))


def _norm(parameters: Parameters, name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], parameters[f"{name}.weight"], parameters[f"{name}.bias"], eps)


def _four_axes(mask: Tensor | None) -> Tensor | None:
    return mask[:, None] if mask is not None and mask.ndim == 3 else mask


def _by_scores(scores: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        return torch.softmax(scores, dim=-1) @ value
    mask = mask[:, 0] if mask.ndim == 4 else mask
    weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), dim=-1)
    return torch.where(mask.any(-1, keepdim=True), weights, 0.0) @ value


def basic_attention(
    p: Parameters, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`attention_basics.BasicAttention` in PyTorch's own operations."""
    hidden = torch.tanh(_linear(p, "q_proj", query)[:, :, None] + _linear(p, "k_proj", key)[:, None])
    return _by_scores(_linear(p, "score_proj", hidden).squeeze(-1), value, mask)


def luong_dot_attention(
    p: Parameters, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`attention_basics.DotScore` in PyTorch's own operations."""
    return _by_scores(query @ key.mT, value, mask)


def luong_general_attention(
    p: Parameters, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`attention_basics.GeneralScore` in PyTorch's own operations."""
    return _by_scores(query @ _linear(p, "score.proj", key).mT, value, mask)


def luong_concat_attention(
    p: Parameters, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`attention_basics.ConcatScore` in PyTorch's own operations."""
    pairs = (-1, query.shape[1], key.shape[1], -1)
    joined = torch.cat([query[:, :, None].expand(pairs), key[:, None].expand(pairs)], dim=-1)
    hidden = torch.tanh(_linear(p, "score.concat_proj", joined))
    return _by_scores(_linear(p, "score.score_proj", hidden).squeeze(-1), value, mask)


def scaled_dot_product_attention(
    p: Parameters, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
) -> Tensor:
    """`attention_basics.ScaledDotProductAttention` in PyTorch's own operations."""
    return F.scaled_dot_product_attention(
        query[:, None], key[:, None], value[:, None], attn_mask=_four_axes(mask)
    )[:, 0]


def self_attention(p: Parameters, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """`self_attention.SelfAttention` in PyTorch's own operations."""
    return cross_attention(p, x, x, mask)


def cross_attention(p: Parameters, query: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
    """`cross_attention.CrossAttention` in PyTorch's own operations."""
    query, key, value = (
        _linear(p, "q_proj", query),
        _linear(p, "k_proj", memory),
        _linear(p, "v_proj", memory),
    )
    return scaled_dot_product_attention(p, query, key, value, mask)


def multi_head_cross_attention(
    p: Parameters, query: Tensor, memory: Tensor, mask: Tensor | None = None, prefix: str = ""
) -> Tensor:
    """`cross_attention.MultiHeadCrossAttention` in PyTorch's own operations."""
    query, key, value = (
        _linear(p, prefix + name, x).unflatten(-1, (HEADS, -1)).transpose(1, 2)
        for name, x in (("q_proj", query), ("k_proj", memory), ("v_proj", memory))
    )
    heads = F.scaled_dot_product_attention(query, key, value, attn_mask=_four_axes(mask))
    return _linear(p, f"{prefix}out_proj", heads.transpose(1, 2).flatten(-2))


def multi_head_self_attention(p: Parameters, x: Tensor, mask: Tensor | None = None) -> Tensor:
    """`self_attention.MultiHeadSelfAttention` in PyTorch's own operations."""
    return multi_head_cross_attention(p, x, x, mask)


def causal_self_attention(p: Parameters, x: Tensor, mask: Tensor | None = None, prefix: str = "") -> Tensor:
    """`self_attention.CausalSelfAttention` in PyTorch's own operations."""
    causal = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril()
    four_axes = _four_axes(mask)
    return multi_head_cross_attention(p, x, x, causal if four_axes is None else causal & four_axes, prefix)


def _feed_forward(p: Parameters, prefix: str, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
    return _linear(p, f"{prefix}down_proj", activation(_linear(p, f"{prefix}up_proj", x)))


def encoder_decoder_attention(
    p: Parameters,
    x: Tensor,
    memory: Tensor,
    self_mask: Tensor | None = None,
    memory_mask: Tensor | None = None,
    *,
    norm_first: bool,
    activation: Callable[[Tensor], Tensor],
) -> Tensor:
    """`cross_attention.EncoderDecoderAttention` in PyTorch's own operations."""
    sublayers = {
        "self_norm": lambda x: causal_self_attention(p, x, self_mask, "self_attention."),
        "cross_norm": lambda x: multi_head_cross_attention(p, x, memory, memory_mask, "cross_attention."),
        "ffn_norm": lambda x: _feed_forward(p, "ffn.", x, activation),
    }
    for norm, sublayer in sublayers.items():
        x = x + sublayer(_norm(p, norm, x, 1e-5)) if norm_first else _norm(p, norm, x + sublayer(x), 1e-5)
    return x


encoder_decoder_attention_post_norm = partial(
    encoder_decoder_attention, norm_first=False, activation=partial(F.gelu, approximate="tanh")
)
encoder_decoder_attention_pre_norm = partial(encoder_decoder_attention, norm_first=True, activation=F.gelu)


def encoder(p: Parameters, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """`models.Encoder` in PyTorch's own operations."""
    x = F.embedding(tokens, p["token_embedding.weight"]) + p["type_embedding.weight"][0]
    x = _norm(p, "embedding_norm", x + p["position_embedding.weight"][: tokens.shape[1]], 1e-12)
    for layer in range(MODEL_SIZES["num_layers"]):
        prefix = f"layers.{layer}."
        attended = multi_head_cross_attention(p, x, x, mask, f"{prefix}attention.")
        x = _norm(p, f"{prefix}attention_norm", x + attended, 1e-12)
        x = _norm(p, f"{prefix}ffn_norm", x + _feed_forward(p, f"{prefix}ffn.", x, F.gelu), 1e-12)
    return x


def decoder(p: Parameters, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """`models.Decoder` in PyTorch's own operations."""
    x = F.embedding(tokens, p["token_embedding.weight"]) + p["position_embedding.weight"][: tokens.shape[1]]
    for layer in range(MODEL_SIZES["num_layers"]):
        prefix = f"layers.{layer}."
        normed = _norm(p, f"{prefix}attention_norm", x, 1e-5)
        x = x + causal_self_attention(p, normed, mask, f"{prefix}attention.")
        normed = _norm(p, f"{prefix}ffn_norm", x, 1e-5)
        x = x + _feed_forward(p, f"{prefix}ffn.", normed, partial(F.gelu, approximate="tanh"))
    return _norm(p, "final_norm", x, 1e-5) @ p["token_embedding.weight"].T
