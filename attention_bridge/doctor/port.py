"""A layer as it may have been ported: its weights, its inputs and the options that a mistake changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from attention_bridge.doctor.memo import Memo
from attention_bridge.doctor.setting import Setting

Array: TypeAlias = np.ndarray


@dataclass(frozen=True, eq=False)
class Port:
    """Weights, inputs and setting of a layer, and the mistakes that no setting can express.

    Attributes:
        setting: hyperparameters of the layer.
        weights: float64 arrays by their names in the canonical layout: `{q,k,v,out}_proj`, and where the layer has
            them `attention_norm`, `ffn.up_proj`, `ffn.down_proj` and `ffn_norm`.
        x: input of the layer, `(batch, query, embed)`.
        memory: source of keys and values, `(batch, key, memory_dim)`; None for self-attention.
        mask: boolean mask, True where a query may attend to a key, `(batch|1, heads|1, query|1, key)`; None for no
            mask.
        empty_rows: output of a fully masked row: `zero`; `mean`, the mean of all values; `unmasked`, as without a
            mask; or `nan`.
        split, merge: `heads` if the axes of heads and length are exchanged, as is correct; `raw` if the array is only
            reshaped.
        mask_offset: added to the query positions in the causal mask only.
        rope_sign: -1 for RoPE by the negative angle, else 1.
        roped: the projections that RoPE is applied to: `qk`, `q`, `k` or empty.
        precision: precision of the factors of every product: `full`, `float32`, `bfloat16`, `float16`, `tf32`
            (rounded to nearest) or `tf32 cut` (truncated).
        stored: dtype that every result is rounded to: `full`, `float32`, `bfloat16` or `float16`.
        unbiased: whether the variance of a LayerNorm is divided by n - 1.
        residual: whether the layer adds its residuals.
        rows: index of the queries whose outputs are computed; all by default.
        memo: cache of results that many ports share; None for none.
    """

    setting: Setting
    weights: Mapping[str, Array]
    x: Array
    memory: Array | None = None
    mask: Array | None = None
    empty_rows: str = "zero"
    split: str = "heads"
    merge: str = "heads"
    mask_offset: int = 0
    rope_sign: int = 1
    roped: str = "qk"
    precision: str = "full"
    stored: str = "full"
    unbiased: bool = False
    residual: bool = True
    rows: Any = ...
    memo: Memo | None = None

    @property
    def keys(self) -> Array:
        """Source of keys and values: the memory, or `x` in self-attention."""
        return self.x if self.memory is None else self.memory

    @property
    def head_dim(self) -> int:
        """Number of features per query head."""
        return self.weights["q_proj.weight"].shape[0] // self.setting.num_heads

    @property
    def out_dim(self) -> int:
        """Number of output features."""
        if self.is_block:
            return int(self.x.shape[-1])
        rows = self.weights["v_proj.weight"].shape[0]
        out = self.weights.get("out_proj.weight")
        return rows // self.setting.kv_heads * self.setting.num_heads if out is None else len(out)

    @property
    def positions(self) -> Array:
        """Positions of the queries whose scores are needed; with a raw reshape, those that it mixes into `rows`."""
        every = np.arange(self.x.shape[1])
        return every[self.rows] if self.merge == "heads" else np.unique(self.raw_heads[1])

    @property
    def raw_heads(self) -> tuple[Array, Array]:
        """Head and position of each part of the wanted rows, when heads are merged by a raw reshape."""
        length, heads = self.x.shape[1], self.setting.num_heads
        part = np.arange(length)[self.rows][:, None] * heads + np.arange(heads)
        return part // length, part % length

    @property
    def scale(self) -> float:
        """The factor on the scores."""
        return self.head_dim**-0.5 if self.setting.scale is None else self.setting.scale

    @property
    def is_block(self) -> bool:
        """Whether the layer has a norm or a feed-forward network, and therefore residuals."""
        return any(not name.partition(".")[0].endswith("_proj") for name in self.weights)

    def set(self, **changes: object) -> Port:
        """Return a copy with changed hyperparameters."""
        return replace(self, setting=replace(self.setting, **changes))  # type: ignore[arg-type]

    def put(self, weights: Mapping[str, Array]) -> Port:
        """Return a copy with changed weights."""
        return replace(self, weights={**self.weights, **weights})

    def drop(self, *names: str) -> Port:
        """Return a copy without the named weights."""
        return replace(self, weights={name: w for name, w in self.weights.items() if name not in names})

    def keep(
        self, arrays: tuple[Array | None, ...], options: tuple[Any, ...], compute: Callable[[], Array]
    ) -> Array:
        """Return a result of these arrays, computed once for all ports with the same memo."""
        return compute() if self.memo is None else self.memo.keep(arrays, options, compute)

    def only(self, batch: int | Array, rows: Array) -> Port:
        """Return a copy restricted to some sequences of the batch and some of their queries."""
        some = np.atleast_1d(batch)
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[some]
        memory = None if self.memory is None else self.memory[some]
        return replace(self, x=self.x[some], memory=memory, mask=mask, rows=rows)
