r"""DeepSeek sparse attention: an indexer chooses k keys for each query, and attention sees no others (DeepSeek-V3.2).

$$ o_t = \mathrm{Attention}\!\left(q_t, \{(k_s, v_s) : s \in T_t\}\right), \qquad
   T_t = \text{the } k \text{ positions } s \le t \text{ of largest } I_{ts} $$

One change from causal attention of any kind: who is seen. The scores I are those of a `LightningIndexer`, all heads
share the choice, and with k as large as the length nothing changes. In DeepSeek's models the attention is
`MultiHeadLatentAttention`, and the indexer asks from its latent of queries.

| symbol    | argument    |
|-----------|-------------|
| Attention | `attention` |
| I         | `indexer`   |
| k         | `top_k`     |
"""

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.checks import align, check_pairs, check_positive, check_sequence
from jax_attention.heads.grouped_query import GroupedQueryAttention
from jax_attention.heads.latent import MultiHeadLatentAttention
from jax_attention.masks import causal_mask
from jax_attention.ops import top_k_mask
from jax_attention.outputs import AttentionOutput
from jax_attention.positions.protocol import check_positions
from jax_attention.sparse.lightning_indexer import LightningIndexer


class DeepSeekSparseAttention(nnx.Module):
    """Causal attention to the keys that an indexer chooses (DeepSeek-AI 2025, DeepSeek-V3.2).

    A choice has no gradient: output and weights tell the indexer nothing. It is trained by itself, so that
    `softmax(indexer(x))` comes near the weights of full attention, summed over heads (a Kullback-Leibler loss).

    Args:
        attention: what attends.
        indexer: what chooses; with a `query_dim` it asks from the latent of queries of `attention`.
        top_k: how many keys a query sees.

    Raises:
        ValueError: `top_k` below 1, or an indexer for other features than `attention` has.
    """

    def __init__(
        self,
        attention: MultiHeadLatentAttention | GroupedQueryAttention,
        indexer: LightningIndexer,
        top_k: int,
    ):
        check_positive(top_k=top_k)
        if indexer.embed_dim != attention.embed_dim:
            raise ValueError(
                f"indexer must have embed_dim={attention.embed_dim} as attention, got {indexer.embed_dim}"
            )
        latent_dim = attention.q_lora_rank if isinstance(attention, MultiHeadLatentAttention) else None
        if indexer.query_dim not in (None, latent_dim):
            raise ValueError(
                f"indexer must have query_dim=None or that of the attention's latent of queries, {latent_dim}, "
                f"got {indexer.query_dim}"
            )
        self.attention = attention
        self.indexer = indexer
        self.top_k = top_k

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Array, "batch heads length length"] | None = None,
    ) -> AttentionOutput:
        """Let every position attend to the best `top_k` of itself and those before it; the rest as in `attention`.

        A key that the mask hides from all heads takes up no place among them.
        """
        num_heads = self.attention.num_heads
        check_sequence("x", x, self.attention.embed_dim)
        check_pairs(x, x, mask, dropout_keep, num_heads)
        check_positions("positions", positions, x, self.attention.position)
        batch, length = x.shape[:2]
        visible = causal_mask(length)  # length length
        if mask is not None:
            visible = visible & align("mask", mask, (batch, num_heads, length, length))
        candidates = visible.any(axis=1) if visible.ndim == 4 else visible  # length length, or with batch|1
        scores = self.indexer(
            x, self._asked(x), positions=None if self.indexer.position is None else positions
        )
        chosen = top_k_mask(scores, self.top_k, candidates)[:, None]  # batch 1 length length
        read = self.attention(
            x, chosen & visible, positions=positions, need_weights=need_weights, dropout_keep=dropout_keep
        )
        return AttentionOutput(read.output, read.weights)

    def _asked(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length query_dim"]:
        """What the indexer's queries are made from."""
        if self.indexer.query_dim is None or not isinstance(self.attention, MultiHeadLatentAttention):
            return x
        return self.attention.q_a_norm(self.attention.q_a_proj(x))


def main() -> None:
    """Show two heads that see the two keys which an indexer chose for both."""
    from jax_attention.demonstration import draw, fill, show

    words = ["the", "cat", "sat", "still"]
    attention = GroupedQueryAttention(embed_dim=6, num_heads=2, num_kv_heads=1, rngs=nnx.Rngs(0))
    indexer = LightningIndexer(embed_dim=6, num_heads=2, head_dim=4, rngs=nnx.Rngs(0))
    sparse = DeepSeekSparseAttention(fill(attention), fill(indexer), top_k=2)
    show("DeepSeekSparseAttention", sparse(draw(1, 4, 6)), words, words)


if __name__ == "__main__":
    main()
