"""The description of a small model, and the sizes of its axes, which all differ."""

from dataclasses import dataclass

HEAD_DIM, HIDDEN, VOCABULARY, PAD, BUCKETS, FAR = 8, 44, 37, 1, 6, 7
BATCH, LENGTH, SOURCE, PREFILL = 3, 10, 7, 6


@dataclass(frozen=True)
class Rope:
    """RoPE: base, pairing (`half` or `interleaved`), features that are turned, and scaling of its frequencies."""

    base: float = 10000.0
    pairing: str = "half"
    turned: int = HEAD_DIM
    scaling: str = ""


@dataclass(frozen=True)
class Shape:
    """A small model.

    Attributes:
        layers, heads, kv_heads: numbers of layers, query heads and key/value heads.
        norm: `rms`, `gemma` for RMSNorm by 1 + weight, or `layer`.
        order: `pre`, `post` or `parallel`, where the norms are.
        eps: added to the variance.
        activation, gated: the position-wise feed-forward.
        biased: whether matrices have biases.
        fused: `blocks` or `heads`, how one matrix makes queries, keys and values; empty for three matrices.
        causal: whether a query attends only to keys up to its own position.
        rope: RoPE; None for none.
        alibi: whether ALiBi's bias is added to the scores.
        buckets: whether T5's relative bias is added to the scores.
        qk_norm: whether queries and keys are normalised before RoPE.
        scaled: whether scores are divided by sqrt(head_dim).
        softcap, cap: c of `c tanh(x / c)` for the scores and for the logits; None for none.
        embed_scaled: whether embeddings are multiplied by sqrt(embed).
        positions: `learned`, `offset` for learned ones that begin at 2, or `padding` as in RoBERTa; empty for none.
        tied: whether the head shares the matrix of the embeddings.
        mask: `boolean` or `additive`, the kind of mask that layers get.
    """

    layers: int = 3
    heads: int = 4
    kv_heads: int = 4
    norm: str = "layer"
    order: str = "pre"
    eps: float = 1e-5
    activation: str = "gelu"
    gated: bool = False
    biased: bool = True
    fused: str = ""
    causal: bool = True
    rope: Rope | None = None
    alibi: bool = False
    buckets: bool = False
    qk_norm: bool = False
    scaled: bool = True
    softcap: float | None = None
    cap: float | None = None
    embed_scaled: bool = False
    positions: str = ""
    tied: bool = False
    mask: str = "boolean"

    @property
    def embed(self) -> int:
        """Number of features of a token."""
        return self.heads * HEAD_DIM
