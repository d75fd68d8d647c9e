"""The layer of a bidirectional Transformer encoder (Vaswani et al. 2017), and the sizes of the encoder.

Each layer is self-attention and a feed-forward network, each followed by a residual addition and a normalisation, or
after a normalisation of its input. The attention class is a choice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.dropout_masks import LayerKeep
from torch_attention.feed_forward import FeedForward, GatedFeedForward
from torch_attention.layers import Dropout, Factory
from torch_attention.models.description import Part
from torch_attention.models.module_classes import call_arguments
from torch_attention.models.part_builder import build_mixer
from torch_attention.norms import layer_norm, normalise
from torch_attention.outputs import AttentionOutput
from torch_attention.self_attention import MultiHeadSelfAttention


@checked
@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of an encoder.

    Attributes:
        vocab_size: number of tokens in the vocabulary.
        embed_dim: number of features per position.
        num_heads: number of attention heads per layer; must divide `embed_dim`.
        num_layers: number of layers.
        ffn_dim: hidden features of the feed-forward network.
        max_len: number of positions with an embedding, the longest sequence; None for no position embeddings.
        num_types: number of token types (sentence A, sentence B); 0 for none (DistilBERT).
        activation: activation of the feed-forward network: `"relu"`, `"gelu"` (erf), `"gelu_tanh"`, `"quick_gelu"` or
            `"silu"`.
        norm_eps: epsilon added to the variance in each normalisation.
        dropout: dropout rate of attention weights, embeddings and sublayer outputs in training.
        pooler: whether the model has a pooler: a linear layer and tanh on the first position.
        first_position: index of the first token's row in the position embedding; 2 in RoBERTa.
        uncounted_token: token that positions do not count, which is the padding token of RoBERTa; None counts all
            tokens.
        position: positional encoding that all layers share, such as `T5Bias`; None for none.
        gated: whether the feed-forward network has a gate.
        bias: whether the projections of attention and feed-forward network have biases.
        num_tasks: number of rows of the task embedding, whose first row is added to each token (ERNIE); None for none.
        token_dim: features of the embeddings, which a linear layer projects to `embed_dim` (ALBERT); None for
            embeddings of `embed_dim` features without a projection.
        shared_layers: whether one layer runs `num_layers` times (ALBERT).
        num_coordinates: number of values of a coordinate of a token's box on a page (LayoutLM); None for no boxes.
        attention: attention class of the layers, such as `LongformerAttention`, with its arguments; None for
            `MultiHeadSelfAttention`.
        max_tokens: longest sequence of a call, if it is below `max_len` (BigBird); None for `max_len`.
        global_first: whether the first token is global where a call gives no `global_tokens`.
        norm_first: whether norms come before the sublayers, and one after the last layer, but none after the embeddings
            (XLM-RoBERTa XL).
    """

    vocab_size: int
    embed_dim: int
    num_heads: int
    num_layers: int
    ffn_dim: int
    max_len: int | None
    num_types: int = 2
    activation: str = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.0
    pooler: bool = True
    first_position: int = 0
    token_dim: int | None = None
    shared_layers: bool = False
    uncounted_token: int | None = None
    position: Part | None = None
    gated: bool = False
    bias: bool = True
    num_tasks: int | None = None
    num_coordinates: int | None = None
    attention: Part | None = None
    max_tokens: int | None = None
    global_first: bool = False
    norm_first: bool = False


@checked
class EncoderLayer(nn.Module):
    """Self-attention and feed-forward network, each as x = norm(x + f(x)) (Vaswani et al. 2017).

    With `norm_first` they are x = x + f(norm(x)).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: `embed_dim` is not divisible by `num_heads`, the activation is unknown, or the dropout rate is
            outside [0, 1).
    """

    def __init__(
        self,
        config: EncoderConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim, eps, bias = config.embed_dim, config.norm_eps, config.bias
        feed_forward = GatedFeedForward if config.gated else FeedForward
        self.attention: Any = (
            MultiHeadSelfAttention(dim, config.num_heads, bias=bias, dropout=config.dropout, **factory)
            if config.attention is None
            else build_mixer(config.attention, dim, {**factory}, is_causal=False)
        )
        self.norm_first = config.norm_first
        self.takes = call_arguments(self.attention)
        self.attention_norm = layer_norm(dim, eps=eps, **factory)
        self.ffn = feed_forward(dim, config.ffn_dim, activation=config.activation, bias=bias, **factory)
        self.ffn_norm = layer_norm(dim, eps=eps, **factory)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        position: Any = None,
        positions: Int[Tensor, "..."] | None = None,
        need_weights: bool = True,
        dropout_keep: LayerKeep | None = None,
        global_tokens: Bool[Tensor, "batch length"] | None = None,
    ) -> AttentionOutput:
        """Run one layer; arguments, result and errors as in its attention class."""
        keep = dropout_keep or LayerKeep()
        given: dict[str, Any] = {"position": position, "positions": None if position is None else positions}
        given |= {"dropout_keep": keep.weights, "global_tokens": global_tokens, "need_weights": need_weights}
        given = {name: value for name, value in given.items() if name in self.takes}
        first = self.norm_first
        read = normalise(self.attention_norm, x) if first else x  # batch length embed
        attended, weights = self.attention(read, mask, **given)
        x = x + self.dropout(attended, keep.attention_output)  # batch length embed
        x = x if first else normalise(self.attention_norm, x)  # batch length embed
        read = normalise(self.ffn_norm, x) if first else x  # batch length embed
        x = x + self.dropout(self.ffn(read), keep.ffn_output)  # batch length embed
        x = x if first else normalise(self.ffn_norm, x)  # batch length embed
        return AttentionOutput(x, weights)
