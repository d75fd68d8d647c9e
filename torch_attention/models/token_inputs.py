r"""Per-layer embeddings: each layer reads a vector of the token of its own (Gemma 3n, Google 2025).

$$ p_\ell = \left(\sqrt{d}\, e_\ell + \mathrm{norm}(W_\ell x / \sqrt{D})\right) / \sqrt{2}, \qquad
   x \leftarrow x + \mathrm{norm}\!\left(U \left(\sigma(G x) \odot p_\ell\right)\right) $$

`LayerEmbedding` computes the vectors p of all layers from the tokens and their embeddings x; `TokenInput` is the
sublayer that reads one of them.

| symbol | argument                                          |
|--------|---------------------------------------------------|
| e      | `token_embedding`, one vector for token and layer |
| W      | `context_proj`                                    |
| D, d   | `embed_dim`, `dim`                                |
| G, U   | `gate_proj`, `out_proj`                           |
| σ      | `activation`                                      |
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from torch_attention.activations import activation_function
from torch_attention.arguments import checked
from torch_attention.layers import Factory, embedding, linear
from torch_attention.norms import normalise, rms_norm


@checked
class LayerEmbedding(nn.Module):
    """Vectors of each token for each layer, from the token and from its embedding (Gemma 3n, 2025).

    Args:
        embed_dim: features of the token embedding.
        num_layers: number of layers.
        dim: features of the vector of a layer.
        vocab_size: number of tokens with vectors; others have the vectors of token 0.
        eps: constant added to the mean square in the norm.
    """

    def __init__(
        self,
        embed_dim: int,
        num_layers: int,
        *,
        dim: int,
        vocab_size: int,
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.embed_dim = embed_dim
        self.num_layers = num_layers
        self.dim = dim
        self.vocab_size = vocab_size
        self.token_embedding = embedding(vocab_size, num_layers * dim, **factory)
        self.context_proj = linear(embed_dim, num_layers * dim, bias=False, **factory)
        self.context_norm = rms_norm(dim, eps=eps, **factory)

    def forward(
        self, tokens: Int[Tensor, "batch length"], x: Float[Tensor, "batch length embed"]
    ) -> tuple[Float[Tensor, "batch length dim"], ...]:
        """Return the vectors `(batch, length, dim)` for each layer.

        Args:
            tokens: token ids.
            x: input of the first layer, `(batch, length, embed_dim)`.
        """
        known = torch.where((tokens >= 0) & (tokens < self.vocab_size), tokens, 0)  # batch length
        shape = (*tokens.shape, self.num_layers, self.dim)
        own = self.token_embedding(known).reshape(shape) * self.dim**0.5  # batch length layers dim
        context = self.context_proj(x) * self.embed_dim**-0.5  # batch length layers·dim
        both = own + normalise(self.context_norm, context.reshape(shape))  # batch length layers dim
        both = both * 2**-0.5
        return tuple([both[:, :, n] for n in range(self.num_layers)])


@checked
class TokenInput(nn.Module):
    """Sublayer that reads the token's vector for this layer: norm(out(activation(gate(x)) * vector)) (Gemma 3n, 2025).

    Args:
        embed_dim: features of input and output.
        input_dim: features of the vector.
        activation: activation of the gate; any activation of `FeedForward`.
        eps: constant added to the mean square in the norm.

    Raises:
        ValueError: an unknown activation.
    """

    def __init__(
        self,
        embed_dim: int,
        input_dim: int,
        *,
        activation: str = "gelu_tanh",
        eps: float = 1e-6,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        self.gate_proj = linear(embed_dim, input_dim, bias=False, **factory)
        self.out_proj = linear(input_dim, embed_dim, bias=False, **factory)
        self.norm = rms_norm(embed_dim, eps=eps, **factory)
        self.activation = activation_function(activation)

    def forward(
        self, x: Float[Tensor, "batch length embed"], token: Float[Tensor, "batch length dim"]
    ) -> Float[Tensor, "batch length embed"]:
        """Apply the sublayer, without the residual addition.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            token: vectors of the tokens for this layer, `(batch, length, input_dim)`.
        """
        gated = self.activation(self.gate_proj(x)) * token  # batch length dim
        return normalise(self.norm, self.out_proj(gated))  # batch length embed
