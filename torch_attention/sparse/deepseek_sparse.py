r"""DeepSeek sparse attention: each query attends to the k keys selected by an indexer (DeepSeek-V3.2).

$$ o_t = \mathrm{Attention}\!\left(q_t, \{(k_s, v_s) : s \in T_t\}\right), \qquad
   T_t = \text{the } k \text{ positions } s \le t \text{ of largest } I_{ts} $$

One change from any causal attention: the set of visible keys. The scores I come from a `LightningIndexer`, and all
heads share the selection. With k at least the length, nothing changes. In DeepSeek's models, the attention is
`MultiHeadLatentAttention`, and the indexer computes its queries from the query latent.

| symbol    | argument    |
|-----------|-------------|
| Attention | `attention` |
| I         | `indexer`   |
| k         | `top_k`     |
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Unpack

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.caches import Cache, Recalled
from torch_attention.checks import check_positive
from torch_attention.frame import SelfCall
from torch_attention.frame.one_sequence import recall
from torch_attention.heads.grouped_query import GroupedQueryAttention
from torch_attention.heads.latent import MultiHeadLatentAttention
from torch_attention.layers import precise
from torch_attention.masks import and_masks, causal_mask, document_mask, length_mask
from torch_attention.norms import normalise
from torch_attention.ops import top_k_mask
from torch_attention.ops.rules import as_positions
from torch_attention.outputs import AttentionOutput, CachedOutput
from torch_attention.sparse.lightning_indexer import LightningIndexer


class Indexed(NamedTuple):
    """Cache entries of sparse attention.

    Attributes:
        key, value: cache entries of `attention`; for latent attention, the two fields of `Latents`.
        index_key: keys of the indexer, `(batch, length, index_dim)`, before positional encoding.
    """

    key: Float[Tensor, "batch ... length key_dim"]
    value: Float[Tensor, "batch ... length value_dim"]
    index_key: Float[Tensor, "batch length index_dim"]


@dataclass(frozen=True)
class Choosing(Cache):
    """Cache wrapper for the inner attention that masks all keys except the selected ones.

    Attributes:
        layer: layer whose indexer selects the keys.
        x: new tokens, `(batch, new, embed_dim)`.
        cache: wrapped cache, with entries of type `Indexed`.
    """

    layer: "DeepSeekSparseAttention"
    x: Float[Tensor, "batch new embed"]
    cache: Cache

    @property
    def entries(self) -> Any:
        """Entries of the inner attention."""
        return None if self.cache.entries is None else self.cache.entries[:2]

    @property
    def length(self) -> Any:
        """Length of the wrapped cache."""
        return self.cache.length

    def check(self, new: int, window: int | None, num_sinks: int) -> None:
        """Check the wrapped cache."""
        self.cache.check(new, window, num_sinks)

    def extend(self, entries: Any, visible: Bool[Tensor, "batch new"] | None) -> Recalled:
        """Extend the wrapped cache and mask the keys that are not selected."""
        mask = None if visible is None else visible[:, None, None]  # batch 1 1 new
        key, value = entries
        seen = recall(self.cache, Indexed(key, value, self.layer.indexer.keys(self.x)), mask)
        index_key = seen.entries.index_key  # batch slots index_dim
        causal = causal_mask(
            self.x.shape[1], index_key.shape[1], query_offset=seen.offset, device=self.x.device
        )[None, None]  # 1 1 new slots
        mask = causal if seen.mask is None else causal & seen.mask
        chosen = self.layer.choose(self.x, index_key, mask, seen.query_positions, seen.key_positions)
        return seen._replace(entries=type(entries)(*seen.entries[:2]), mask=chosen & mask)


@checked
class DeepSeekSparseAttention(nn.Module):
    """Causal attention to the keys selected by an indexer (DeepSeek-AI 2025, DeepSeek-V3.2).

    The selection has no gradient, so the output and the weights do not train the indexer. It is trained separately with
    a Kullback-Leibler loss, which fits `softmax(indexer(x))` to the weights of full attention summed over heads.

    Args:
        attention: inner attention layer.
        indexer: module that scores the keys; with a `query_dim`, its queries come from the query latent of `attention`.
        top_k: number of keys that each query attends to.

    Raises:
        ValueError: `top_k` below 1, or an indexer whose sizes do not match `attention`.
    """

    def __init__(
        self,
        attention: MultiHeadLatentAttention | GroupedQueryAttention,
        indexer: LightningIndexer,
        top_k: int,
    ):
        super().__init__()
        check_positive(top_k=top_k)
        if indexer.embed_dim != attention.embed_dim:
            raise ValueError(
                f"indexer must have embed_dim={attention.embed_dim} as attention, got {indexer.embed_dim}"
            )
        latent_dim = attention.q_lora_rank if isinstance(attention, MultiHeadLatentAttention) else None
        if indexer.query_dim not in (None, latent_dim):
            raise ValueError(
                f"indexer must have query_dim=None or the size of the attention's query latent, {latent_dim}, "
                f"got {indexer.query_dim}"
            )
        self.attention = attention
        self.indexer = indexer
        self.top_k = top_k

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[SelfCall],
    ) -> AttentionOutput | CachedOutput:
        """Apply causal attention to the selected keys.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask. Keys that it hides from all
                heads are not selected.
            cache: KV cache of the earlier positions, with entries of type `Indexed`, if `attention` is causal; None
                without one.
            positions, lengths, segments, need_weights, dropout_keep, implementation: as in `attention`.

        Returns:
            Output `(batch, length, embed_dim)` and weights `(batch, heads, length, length)`; a `CachedOutput` with a
            cache.
        """
        self.attention.check(x, mask, **call)
        cache, positions = call.get("cache"), call.get("positions")
        if cache is not None:
            call["cache"] = Choosing(self, x, cache)
            return self.attention(x, mask, **call)
        lengths, segments, length = call.get("lengths"), call.get("segments"), x.shape[1]
        given = [
            causal_mask(length, device=x.device),
            mask,
            None if lengths is None else length_mask(as_positions(lengths), length),
            None if segments is None else document_mask(segments),
        ]
        visible = and_masks(*(each for each in given if each is not None))
        chosen = self.choose(x, self.indexer.keys(x), visible, positions, positions)
        return self.attention(x, and_masks(chosen, visible), **call)

    def choose(
        self,
        x: Float[Tensor, "batch query embed"],
        key: Float[Tensor, "batch key index_dim"],
        visible: Bool[Tensor, "..."],
        query_positions: Int[Tensor, "..."] | None,
        key_positions: Int[Tensor, "..."] | None,
    ) -> Bool[Tensor, "batch 1 query key"]:
        """Mask of the `top_k` visible keys with the highest indexer scores, for each query."""
        candidates = visible.any(dim=1) if visible.ndim == 4 else visible  # query key, or with batch|1
        scores = self.indexer.scores(
            x, self._asked(x), key, query_positions, key_positions
        )  # batch query key
        return top_k_mask(scores, self.top_k, candidates)[:, None]

    def _asked(self, x: Float[Tensor, "batch length embed"]) -> Float[Tensor, "batch length query_dim"]:
        """Input of the indexer's query projection."""
        if self.indexer.query_dim is None or not isinstance(self.attention, MultiHeadLatentAttention):
            return x
        return normalise(self.attention.q_a_norm, precise(self.attention.q_a_proj, x))


def main() -> None:
    """Show two heads that attend to the same two selected keys."""
    from torch_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    attention = GroupedQueryAttention(embed_dim=6, num_heads=2, num_kv_heads=1)
    indexer = LightningIndexer(embed_dim=6, num_heads=2, head_dim=4)
    sparse = DeepSeekSparseAttention(fill(attention), fill(indexer), top_k=2)
    show("DeepSeekSparseAttention", sparse(draw(1, 4, 6)), words, words)


if __name__ == "__main__":
    main()
