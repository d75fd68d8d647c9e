"""A layer as somebody may have ported it, rightly or wrongly: what it is made of, and what a suspect changes."""

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
    """Weights, inputs and setting of a layer, and whatever can be wrong in it that no setting says.

    Attributes:
        setting: of the layer.
        weights: by the hub's names, float64: `{q,k,v,out}_proj`, and those of `attention_norm`, `ffn.up_proj`,
            `ffn.down_proj` and `ffn_norm` where the layer has them.
        x: `(batch, query, embed)`.
        memory: `(batch, key, memory_dim)`; None for self-attention.
        mask: `(batch|1, heads|1, query|1, key)`, True where the query attends to the key; None for all.
        empty_rows: what a query that sees no key gets: `zero`; `mean`, that of all values; `unmasked`, as if no
            key were hidden; or `nan`.
        split, merge: `heads` as it should be; `raw` if an array is reshaped where an axis should have moved.
        mask_offset: added to the position of each query where the causal mask is made, and nowhere else.
        rope_sign: -1 where vectors turn the other way.
        roped: the projections that are turned.
        precision: of the factors of every product: `full`, `float32`, `bfloat16`, `float16`, `tf32`, or `tf32 cut`
            where the bits that are too many are cut off.
        stored: the dtype that every result is rounded to: `full`, `float32`, `bfloat16` or `float16`.
        unbiased: whether the variance of a norm is divided by n - 1.
        residual: whether the layer adds what came in.
        rows: the queries whose outputs are wanted, as numpy indexes an axis; all by default.
        memo: keeps what many ports share: keys, values, rearranged weights; None for nothing.
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
        """What keys and values are made of."""
        return self.x if self.memory is None else self.memory

    @property
    def head_dim(self) -> int:
        """Features of a head of queries."""
        return self.weights["q_proj.weight"].shape[0] // self.setting.num_heads

    @property
    def out_dim(self) -> int:
        """Features of the outputs."""
        if self.is_block:
            return int(self.x.shape[-1])
        rows = self.weights["v_proj.weight"].shape[0]
        out = self.weights.get("out_proj.weight")
        return rows // self.setting.kv_heads * self.setting.num_heads if out is None else len(out)

    @property
    def positions(self) -> Array:
        """The queries whose scores are computed: those wanted, or those that a raw reshape makes them of."""
        every = np.arange(self.x.shape[1])
        return every[self.rows] if self.merge == "heads" else np.unique(self.raw_heads[1])

    @property
    def raw_heads(self) -> tuple[Array, Array]:
        """For each row wanted of a raw reshape from heads, the head and the position of each of its parts."""
        length, heads = self.x.shape[1], self.setting.num_heads
        part = np.arange(length)[self.rows][:, None] * heads + np.arange(heads)
        return part // length, part % length

    @property
    def scale(self) -> float:
        """The factor on the scores."""
        return self.head_dim**-0.5 if self.setting.scale is None else self.setting.scale

    @property
    def is_block(self) -> bool:
        """Whether there is more than attention: a norm or a feed-forward network, and so residuals."""
        return any(not name.partition(".")[0].endswith("_proj") for name in self.weights)

    def set(self, **changes: object) -> Port:
        """The same with another setting."""
        return replace(self, setting=replace(self.setting, **changes))  # type: ignore[arg-type]

    def put(self, weights: Mapping[str, Array]) -> Port:
        """The same with other weights."""
        return replace(self, weights={**self.weights, **weights})

    def drop(self, *names: str) -> Port:
        """The same without these weights."""
        return replace(self, weights={name: w for name, w in self.weights.items() if name not in names})

    def keep(
        self, arrays: tuple[Array | None, ...], options: tuple[Any, ...], compute: Callable[[], Array]
    ) -> Array:
        """What is computed of these arrays, once for all ports with one memo."""
        return compute() if self.memo is None else self.memo.keep(arrays, options, compute)

    def only(self, batch: int | Array, rows: Array) -> Port:
        """The same for some queries of one of its sequences, or of several."""
        some = np.atleast_1d(batch)
        mask = self.mask if self.mask is None or len(self.mask) == 1 else self.mask[some]
        memory = None if self.memory is None else self.memory[some]
        return replace(self, x=self.x[some], memory=memory, mask=mask, rows=rows)
