"""Hyperparameters of the reference layer, as the doctor needs them."""

from __future__ import annotations

from dataclasses import dataclass

from attention_bridge.errors import InputError
from attention_bridge.oracles.common import ACTIVATIONS

ROPES = ("none", "half", "interleaved")
NORMS = ("layer", "rms")


@dataclass(frozen=True)
class Setting:
    """Hyperparameters of a layer, in the conventions of the mirrors.

    Attributes:
        num_heads: number of query heads.
        num_kv_heads: number of key/value heads, a divisor of `num_heads`; None for `num_heads`.
        scale: factor on the scores; None for 1/sqrt(head_dim).
        softcap: c of `c tanh(scores / c)`; None for no softcap.
        is_causal: whether a query attends only to keys up to its own position.
        window: number of visible keys, including the query's own; needs `is_causal`; None for no limit.
        query_offset: position of the first query among the keys.
        rope: RoPE pairing: `none`, `half` (features i and i + d/2) or `interleaved` (features 2i and 2i + 1).
        rope_base: base of the RoPE wavelengths.
        rope_dim: number of leading features of each head that are rotated; None for all.
        activation: activation between the up and down projections of the feed-forward network.
        norm: `layer` (LayerNorm) or `rms` (RMSNorm).
        norm_eps: eps, added to the variance or the mean square.
        norm_offset: whether a norm multiplies by `1 + weight`, as in Gemma.
        norm_first: True for pre-norm, `x + f(norm(x))`; False for post-norm, `norm(x + f(x))`.
    """

    num_heads: int
    num_kv_heads: int | None = None
    scale: float | None = None
    softcap: float | None = None
    is_causal: bool = False
    window: int | None = None
    query_offset: int = 0
    rope: str = "none"
    rope_base: float = 10000.0
    rope_dim: int | None = None
    activation: str = "gelu"
    norm: str = "layer"
    norm_eps: float = 1e-5
    norm_offset: bool = False
    norm_first: bool = False

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            InputError: a value is out of range, or needs another option.
        """
        _check_choice("rope", self.rope, ROPES)
        _check_choice("norm", self.norm, NORMS)
        _check_choice("activation", self.activation, tuple(ACTIVATIONS))
        for name in ("num_heads", "num_kv_heads", "window", "softcap", "scale", "rope_base", "rope_dim"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} must be positive, got {value}")
        if self.norm_eps < 0:
            raise InputError(f"norm_eps must not be negative, got {self.norm_eps}")
        if self.num_heads % self.kv_heads:
            raise InputError(
                f"num_heads={self.num_heads} must be a multiple of num_kv_heads={self.num_kv_heads}"
            )
        if self.window is not None and not self.is_causal:
            raise InputError(f"window={self.window} needs is_causal=True")
        if self.rope_dim is not None and self.rope_dim % 2:
            raise InputError(f"rope_dim must be even, got {self.rope_dim}")

    @property
    def kv_heads(self) -> int:
        """Number of key/value heads."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
