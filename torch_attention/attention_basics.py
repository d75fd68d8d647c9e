r"""The first attention mechanisms: score each key against the query, then average the values.

$$ \alpha_{ij} = \frac{\exp e(q_i, k_j)}{\sum_{l} \exp e(q_i, k_l)}, \qquad c_i = \sum_j \alpha_{ij} v_j $$

The mechanisms differ only in the score function e:

| class                            | score                    | source                                 |
|----------------------------------|--------------------------|----------------------------------------|
| `BasicAttention`                 | $w^\top \tanh(W q + U k)$ | Bahdanau, Cho & Bengio 2014, A.1.2     |
| `LuongAttention(DotScore())`     | $q^\top k$               | Luong, Pham & Manning 2015, section 3.1 |
| `LuongAttention(GeneralScore())` | $q^\top W k$             | the same                               |
| `LuongAttention(ConcatScore())`  | $w^\top \tanh(W [q; k])$ | the same                               |
| `ScaledDotProductAttention`      | $q^\top k / \sqrt{d}$    | Vaswani et al. 2017, section 3.2.1     |

| symbol | argument | shape                      | in a recurrent encoder-decoder |
|--------|----------|----------------------------|--------------------------------|
| q      | `query`  | `(batch, query, query_dim)` | the decoder's states           |
| k      | `key`    | `(batch, key, key_dim)`    | the encoder's states           |
| v      | `value`  | `(batch, key, value_dim)`  | the encoder's states again     |
"""

from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.caches import KeyValue
from torch_attention.checks import check_pairs, check_query_key_value, check_sequence
from torch_attention.classic.scores import GeneralScore
from torch_attention.frame import CrossAttentionFrame, CrossCall, Scaling
from torch_attention.layers import Dropout, Factory, linear
from torch_attention.ops import additive_features, score_attention
from torch_attention.outputs import AttentionOutput


@checked
class BasicAttention(nn.Module):
    """Additive attention: a small network scores each query-key pair (Bahdanau, Cho & Bengio 2014).

    Args:
        query_dim: features of a query.
        key_dim: features of a key.
        hidden_dim: features of the scoring network's hidden layer.
        bias: whether the hidden layer has a bias.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a rate outside [0, 1).
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        hidden_dim: int,
        *,
        bias: bool = False,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.query_dim = query_dim
        self.key_dim = key_dim
        self.q_proj = linear(query_dim, hidden_dim, bias=False, **factory)
        self.k_proj = linear(key_dim, hidden_dim, bias=bias, **factory)
        self.score_proj = linear(hidden_dim, 1, bias=False, **factory)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        query: Float[Tensor, "batch query query_dim"],
        key: Float[Tensor, "batch key key_dim"],
        value: Float[Tensor, "batch key value_dim"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch query key"] | None = None,
    ) -> AttentionOutput:
        """Return the mean of the values, weighted by the softmax of the scores.

        Args:
            query: queries, `(batch, query, query_dim)`.
            key: keys, `(batch, key, key_dim)`.
            value: values, `(batch, key, value_dim)`.
            mask: boolean mask, True where a query may attend to a key; None for no mask.
            need_weights: whether to return the attention weights.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one.

        Returns:
            Output `(batch, query, value_dim)` and attention weights `(batch, query, key)`.

        Raises:
            TypeError: a mask is not boolean.
            ValueError: shapes do not match.
        """
        check_query_key_value(query, key, value, self.query_dim, self.key_dim)
        check_pairs(query, key, mask, dropout_keep)
        features = additive_features(self.q_proj(query), self.k_proj(key))  # batch query key hidden
        scores = self.score_proj(features)[..., 0]  # batch query key
        keep = self.dropout.keep_weights(query, key, dropout_keep)
        return score_attention(
            scores, value, mask, need_weights=need_weights, dropout_keep=keep, dropout_rate=self.dropout.rate
        )


@checked
class LuongAttention(nn.Module):
    """Attention with an exchangeable score function and no scaling (Luong et al. 2015).

    The paper's attentional state tanh(W [context; query]) is not computed here; it belongs to the decoder.

    Args:
        score: `DotScore()`, `GeneralScore(...)`, `ConcatScore(...)`, or any module that maps queries
            `(batch, query, query_dim)` and keys `(batch, key, key_dim)` to scores `(batch, query, key)`.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a rate outside [0, 1).
    """

    def __init__(self, score: nn.Module, *, dropout: float = 0.0):
        super().__init__()
        self.score = score
        self.dropout = Dropout(dropout)

    def forward(
        self,
        query: Float[Tensor, "batch query query_dim"],
        key: Float[Tensor, "batch key key_dim"],
        value: Float[Tensor, "batch key value_dim"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch query key"] | None = None,
    ) -> AttentionOutput:
        """Return the mean of the values, weighted by the softmax of the scores; arguments as in `BasicAttention`."""
        check_query_key_value(query, key, value)
        check_pairs(query, key, mask, dropout_keep)
        keep = self.dropout.keep_weights(query, key, dropout_keep)
        return score_attention(
            self.score(query, key),
            value,
            mask,
            need_weights=need_weights,
            dropout_keep=keep,
            dropout_rate=self.dropout.rate,
        )


@checked
class ScaledDotProductAttention(CrossAttentionFrame):
    """Scaled dot-product attention without parameters: softmax(Q K^T / sqrt(d)) V (Vaswani et al. 2017, equation 1).

    The scale keeps the variance of the scores at one for any d. Without it, a large d saturates the softmax.

    Args:
        position: positional-encoding module with one head, such as `ALiBi(1)`; None for none.
        scale: factor on the scores; `1 / sqrt(d)` if None.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a rate outside [0, 1).
    """

    def __init__(self, **options: Unpack[Scaling]):
        super().__init__(None, None, None, None, **options)

    def forward(
        self,
        query: Float[Tensor, "batch query dim"],
        key: Float[Tensor, "batch key dim"],
        value: Float[Tensor, "batch key value_dim"],
        mask: Bool[Tensor, "..."] | None = None,
        **call: Unpack[CrossCall],
    ) -> AttentionOutput:
        """Return softmax(Q K^T / sqrt(d)) V; `query`, `key`, `value`, `mask` and the result as in `BasicAttention`.

        The keyword arguments are described in `CrossAttention`, whose `memory` corresponds to `key` here.
        """
        check_sequence("query", query)
        check_query_key_value(query, key, value, key_dim=query.shape[-1])
        self.check(query, key, mask, **call)
        entries = KeyValue(key[:, None], value[:, None])  # batch 1 key dim
        heads, weights = self.see(query[:, None], entries, mask, **call).attend()
        return AttentionOutput(heads[:, 0], None if weights is None else weights[:, 0])


def main() -> None:
    """Print the attention weights of decoder states over the words of a source sentence."""
    from torch_attention.demonstration import draw, fill, show

    target, source = ["le", "chat"], ["the", "black", "cat", "slept"]
    query, memory = draw(1, 2, 4), draw(1, 4, 6, seed=1)
    additive = fill(BasicAttention(query_dim=4, key_dim=6, hidden_dim=5))
    show("BasicAttention (additive)", additive(query, memory, memory), target, source)
    general = fill(LuongAttention(GeneralScore(query_dim=4, key_dim=6)))
    show("LuongAttention (general)", general(query, memory, memory), target, source)
    scaled = ScaledDotProductAttention()
    show("ScaledDotProductAttention", scaled(query, memory[..., :4], memory), target, source)


if __name__ == "__main__":
    main()
