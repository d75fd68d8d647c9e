r"""Location-aware attention: scores also depend on the previous query's weights (Chorowski et al. 2015).

$$ f_i = F * \alpha_{i-1}, \qquad e_{ij} = w^\top \tanh(W s_i + V h_j + U f_{ij} + b), \qquad
   \alpha_i = \mathrm{softmax}(e_i) $$

One change from `BasicAttention`: the term $U f_{ij}$. In speech the same sound occurs at many positions, and the
previous weights tell them apart; the filters can learn to move forward. Each step receives only the weights of the step
before, so these weights are the recurrent state.

| symbol         | argument or parameter                                                             |
|----------------|-----------------------------------------------------------------------------------|
| s, h           | `query` and `key`: states of a recurrent decoder and of its encoder               |
| $\alpha_{i-1}$ | `previous` for the first query, then the weights of the preceding query           |
| F              | `location_conv`: `num_filters` filters over `kernel_size` keys, centred on j      |
| U              | `location_proj`                                                                   |
| W, V, b, w     | `q_proj`, `k_proj` and its bias, `score_proj`                                     |
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import align, check_pairs, check_query_key_value, check_state
from torch_attention.layers import Dropout, Factory, conv1d, convolve, linear
from torch_attention.ops import at_least_float32, masked_softmax, scan, weighted_values
from torch_attention.outputs import AttentionOutput, RecurrentOutput


@checked
def align_in_turn(
    score: Callable[[Tensor, Tensor], Tensor],
    query: Float[Tensor, "batch query hidden"],
    previous: Float[Tensor, "batch key"],
    mask: Bool[Tensor, "batch query key"],
) -> Float[Tensor, "batch query key"]:
    """Compute the weights of each query in order, scored with the weights of the query before it.

    Args:
        score: function from a query `(batch, hidden)` and the previous weights `(batch, key)` to scores `(batch, key)`.
        query: queries in order.
        previous: weights before the first query, in at least float32.
        mask: boolean mask, True where a query may attend to a key.
    """
    inputs = query.swapaxes(0, 1), mask.swapaxes(0, 1)  # query batch hidden, query batch key
    _, weights = scan(partial(_align, score), previous, inputs)
    return weights.swapaxes(0, 1)


def _align(
    score: Callable[[Tensor, Tensor], Tensor],
    previous: Float[Tensor, "batch key"],
    inputs: tuple[Tensor, ...],
) -> tuple[Float[Tensor, "batch key"], Float[Tensor, "batch key"]]:
    """Compute the weights of one query, as the carry and the output of the scan."""
    query, mask = inputs  # batch hidden, batch key
    weights = masked_softmax(score(query, previous), mask)
    return weights, weights


@checked
class LocationAwareAttention(nn.Module):
    """Additive attention that also scores the previous query's attention weights (Chorowski et al. 2015, section 2.2).

    Args:
        query_dim: features of a query.
        key_dim: features of a key.
        hidden_dim: features of the hidden layer.
        num_filters: number of convolution filters over the previous weights.
        kernel_size: width of the filters, in keys; odd.
        bias: whether the hidden layer has a bias.
        dropout: dropout rate of the attention weights in training.

    Raises:
        ValueError: a `kernel_size` that is not odd, or a rate outside [0, 1).
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        hidden_dim: int,
        *,
        num_filters: int,
        kernel_size: int,
        bias: bool = True,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        if kernel_size % 2 != 1:
            raise ValueError(f"kernel_size must be odd, so that a filter has a centre, got {kernel_size}")
        factory = Factory(device=device, dtype=dtype)
        self.query_dim = query_dim
        self.key_dim = key_dim
        self.q_proj = linear(query_dim, hidden_dim, bias=False, **factory)
        self.k_proj = linear(key_dim, hidden_dim, bias=bias, **factory)
        self.location_conv = conv1d(
            1, num_filters, kernel_size, padding=kernel_size // 2, bias=False, **factory
        )
        self.location_proj = linear(num_filters, hidden_dim, bias=False, **factory)
        self.score_proj = linear(hidden_dim, 1, bias=False, **factory)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        query: Float[Tensor, "batch query query_dim"],
        key: Float[Tensor, "batch key key_dim"],
        value: Float[Tensor, "batch key value_dim"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        previous: Float[Tensor, "batch key"] | None = None,
        need_weights: bool = True,
        dropout_keep: Bool[Tensor, "batch query key"] | None = None,
    ) -> RecurrentOutput:
        """Attend with each query in order.

        A decoder whose next query depends on this output passes one query per call, and the returned state as
        `previous`.

        Args:
            query, key, value, mask, need_weights: as in `BasicAttention`.
            previous: recurrent state returned by an earlier call, or initial weights; None for zeros.
            dropout_keep: boolean dropout mask, True keeps; used instead of sampling one. Dropout affects the output but
                not the state.

        Returns:
            Output `(batch, query, value_dim)`, the last query's weights `(batch, key)` as the state, and all weights
            `(batch, query, key)`.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_query_key_value(query, key, value, self.query_dim, self.key_dim)
        check_pairs(query, key, mask, dropout_keep)
        batch, query_len, key_len = *query.shape[:2], key.shape[1]
        if previous is None:
            previous = torch.zeros((batch, key_len), dtype=query.dtype, device=query.device)
        check_state("previous", previous, (batch, key_len))
        shape = (batch, 1, query_len, key_len)
        visible = torch.ones(shape, dtype=torch.bool, device=query.device)
        if mask is not None:
            visible = visible & align("mask", mask, shape)
        score = partial(self._score, self.k_proj(key))
        weights = align_in_turn(score, self.q_proj(query), at_least_float32(previous), visible[:, 0])
        keep = self.dropout.keep_weights(query, key, dropout_keep)
        output = weighted_values(
            weights[:, None],
            value[:, None],
            dropout_keep=None if keep is None else keep[:, None],
            dropout_rate=self.dropout.rate,
        )[:, 0]  # batch query value_dim
        seen = torch.concatenate([at_least_float32(previous)[:, None], weights], dim=1)  # batch 1+query key
        return RecurrentOutput(output, seen[:, -1], weights if need_weights else None)

    def _score(
        self,
        key: Float[Tensor, "batch key hidden"],
        query: Float[Tensor, "batch hidden"],
        previous: Float[Tensor, "batch key"],
    ) -> Float[Tensor, "batch key"]:
        """Scores of one query, given the weights of the query before it."""
        if key.shape[1] == 0:
            return key[..., 0]
        location = convolve(self.location_conv, previous[..., None].to(key.dtype))  # batch key filters
        hidden = torch.tanh(query[:, None] + key + self.location_proj(location))  # batch key hidden
        return self.score_proj(hidden)[..., 0]  # batch key


def main() -> None:
    """Align three words with four identical sounds, which only the previous weights can tell apart."""
    from torch_attention.demonstration import draw, fill, show

    heard, written = ["bye-1", "bye-2", "bye-3", "bye-4"], ["first", "second", "third"]
    key = torch.concatenate([draw(1, 1, 6)] * 4, dim=1)
    query = torch.concatenate([draw(1, 1, 5, seed=1)] * 3, dim=1)
    attention = fill(LocationAwareAttention(5, 6, 8, num_filters=3, kernel_size=3))
    previous = torch.as_tensor([[1.0, 0.0, 0.0, 0.0]], device=key.device)
    output, _, weights = attention(query, key, key, previous=previous)
    show("LocationAwareAttention", AttentionOutput(output, weights), written, heard)


if __name__ == "__main__":
    main()
