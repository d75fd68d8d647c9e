r"""Pointer attention: the attention weights are the output (Vinyals, Fortunato & Jaitly 2015).

$$ u_{ij} = w^\top \tanh(W_1 e_j + W_2 d_i), \qquad p(j \mid i) = \mathrm{softmax}_j(u_i) $$

One change from `BasicAttention`: no values are averaged. At each step a decoder chooses one of its inputs, so it can
sort a list or plan a tour through given points. Its vocabulary is the input sequence.

| symbol | argument or parameter                                |
|--------|------------------------------------------------------|
| e, d   | `key` and `query`: states of an encoder and a decoder |
| W_1, W_2, w | `k_proj`, `q_proj`, `score_proj`                 |
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import align, check_pairs, check_sequence
from torch_attention.layers import Factory, linear
from torch_attention.ops import additive_features, masked_softmax
from torch_attention.outputs import AttentionOutput


@checked
class PointerAttention(nn.Module):
    """Additive attention that returns the probability of each key (Vinyals, Fortunato & Jaitly 2015, section 2.3).

    Args:
        query_dim: features of a query.
        key_dim: features of a key.
        hidden_dim: features of the hidden layer.
        bias: whether the hidden layer has a bias.
    """

    def __init__(
        self,
        query_dim: int,
        key_dim: int,
        hidden_dim: int,
        *,
        bias: bool = False,
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

    def forward(
        self,
        query: Float[Tensor, "batch query query_dim"],
        key: Float[Tensor, "batch key key_dim"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        need_weights: bool = True,
    ) -> AttentionOutput:
        """Compute a probability distribution over the keys for each query.

        Args:
            query: queries, `(batch, query, query_dim)`.
            key: keys to choose from, `(batch, key, key_dim)`.
            mask: boolean mask, True where a query may point at a key; None for no mask. Mask the keys that were chosen
                before to choose each key once.
            need_weights: whether to return the attention weights, which are the output in at least float32.

        Returns:
            Probabilities `(batch, query, key)`, as the output and as the weights. A fully masked row is zero.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit.
        """
        check_sequence("query", query, self.query_dim)
        check_sequence("key", key, self.key_dim, batch=query.shape[0])
        check_pairs(query, key, mask)
        features = additive_features(self.q_proj(query), self.k_proj(key))  # batch query key hidden
        scores = self.score_proj(features)[:, None, ..., 0]  # batch 1 query key
        visible = None if mask is None else align("mask", mask, scores.shape)
        weights = masked_softmax(scores, visible)[:, 0]  # batch query key
        return AttentionOutput(weights.to(query.dtype), weights if need_weights else None)


def main() -> None:
    """Visit four cities: point at one city in each step, then mask it."""
    from torch_attention.demonstration import draw, fill

    cities = ["Rome", "Oslo", "Lima", "Cairo"]
    state, key = draw(1, 4, 5), draw(1, 4, 6, seed=1)
    attention = fill(PointerAttention(query_dim=5, key_dim=6, hidden_dim=8))
    unseen = [True] * len(cities)
    for step in range(len(cities)):
        mask = torch.as_tensor([unseen], device=key.device)
        (probabilities,) = attention(state[:, step : step + 1], key, mask).output[0].tolist()
        chosen = probabilities.index(max(probabilities))
        unseen[chosen] = False
        listed = ", ".join(
            f"{city} {probability:.3f}" for city, probability in zip(cities, probabilities, strict=True)
        )
        print(f"step {step}: {listed} -> {cities[chosen]}")


if __name__ == "__main__":
    main()
