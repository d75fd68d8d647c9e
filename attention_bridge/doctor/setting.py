"""What a layer of attention computes beside its weights: the setting that the doctor works in."""

from __future__ import annotations

from dataclasses import dataclass

from attention_bridge.errors import InputError
from attention_bridge.oracles.common import ACTIVATIONS

ROPES = ("none", "half", "interleaved")
NORMS = ("layer", "rms")


@dataclass(frozen=True)
class Setting:
    """The setting of a layer, in the conventions of the mirrors.

    Attributes:
        num_heads: heads of queries.
        num_kv_heads: heads of keys and values, a divisor of `num_heads`; as many if None.
        scale: factor on the scores; `1 / sqrt(head_dim)` if None.
        softcap: bends scores into (-softcap, softcap).
        is_causal: keys at the query's position and before.
        window: the last so many of those keys, the query's own included; needs `is_causal`.
        query_offset: position of the first query among the keys.
        rope: `none`, `half` (feature i turns with i + d/2) or `interleaved` (2i with 2i + 1).
        rope_base: the longest wavelength is that of this base.
        rope_dim: how many leading features of a head turn; all if None.
        activation: between the two maps of a feed-forward network.
        norm: `layer` or `rms`.
        norm_eps: added to the variance or the mean square.
        norm_offset: whether a norm multiplies by `1 + weight`, as Gemma's does.
        norm_first: `x + f(norm(x))` if True, `norm(x + f(x))` if not.
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
        """Refuse what is no setting.

        Raises:
            InputError: a value out of its range, or one that needs another.
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
        """Heads of keys and values."""
        return self.num_heads if self.num_kv_heads is None else self.num_kv_heads


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
