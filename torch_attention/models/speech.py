r"""An encoder-decoder for speech recognition with the layout of Whisper (Radford et al. 2022).

$$ m = \mathrm{encode}\!\left(\mathrm{gelu}(C_2\, \mathrm{gelu}(C_1\, s)) + P\right), \qquad
   \mathrm{logits} = \mathrm{norm}(\mathrm{decode}(t, m))\, E^\top $$

Differences from `EncoderDecoder`: two convolutions precede the encoder, of which the second halves the number of
frames, and the layers are pre-norm. Whisper's key projections have no bias; here their bias is zero.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from torch_attention.activations import gelu
from torch_attention.arguments import checked
from torch_attention.caches import Cache
from torch_attention.checks import check_padding_mask, check_sequence, has_size
from torch_attention.cross_attention import EncoderDecoderAttention
from torch_attention.layers import Factory, conv1d, convolve, embedding, similarities
from torch_attention.models.encoder_decoder import StackConfig
from torch_attention.models.sequence import SequenceModel, check_decoding, sequence_output
from torch_attention.models.special_tokens import SpecialTokens
from torch_attention.models.token_masks import token_mask
from torch_attention.models.token_numbers import check_numbers
from torch_attention.models.token_positions import places
from torch_attention.norms import layer_norm, normalise
from torch_attention.outputs import EncoderOutput, SequenceOutput, all_weights
from torch_attention.vision.vit import ViTBlock


@checked
@dataclass(frozen=True)
class SpeechConfig:
    """Sizes of a speech model.

    Attributes:
        vocab_size: number of tokens in the vocabulary.
        num_features: number of features per audio frame (mel bins).
        embed_dim: number of features per position.
        encoder: sizes of the encoder's stack.
        decoder: sizes of the decoder's stack; None for an encoder alone, which has no logits.
        max_frames: number of encoder positions with an embedding, after the convolutions; half the number of frames.
        max_len: number of target positions with an embedding.
        activation: activation of the feed-forward networks; the convolutions have a GELU.
        norm_eps: epsilon added to the variance in each normalisation.
        embed_scale: factor on the token embeddings.
        special_tokens: end, padding and start tokens, the defaults of `generate`.
    """

    vocab_size: int
    num_features: int
    embed_dim: int
    encoder: StackConfig
    decoder: StackConfig | None
    max_frames: int
    max_len: int
    activation: str = "gelu"
    norm_eps: float = 1e-5
    embed_scale: float = 1.0
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)


@checked
class SpeechTransformer(SequenceModel):
    """Speech recognition model, from audio frames and tokens to next-token logits (Radford et al. 2022).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: `embed_dim` is not divisible by a number of heads, or the activation is unknown.
    """

    def __init__(
        self,
        config: SpeechConfig,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim, eps, activation = config.embed_dim, config.norm_eps, config.activation
        reading, writing = config.encoder, config.decoder
        self.config = config
        self.frame_conv = conv1d(config.num_features, dim, 3, padding=1, **factory)
        self.halving_conv = conv1d(dim, dim, 3, stride=2, padding=1, **factory)
        self.frame_position_embedding = embedding(config.max_frames, dim, **factory)
        self.encoder_layers = nn.ModuleList(
            [
                ViTBlock(
                    dim,
                    reading.num_heads,
                    reading.ffn_dim,
                    activation=activation,
                    norm_eps=eps,
                    **factory,
                )
                for _ in range(reading.num_layers)
            ]
        )
        self.encoder_norm = layer_norm(dim, eps=eps, **factory)
        has_decoder = writing is not None
        self.token_embedding: Any = embedding(config.vocab_size, dim, **factory) if has_decoder else None
        self.position_embedding: Any = embedding(config.max_len, dim, **factory) if has_decoder else None
        self.decoder_layers = nn.ModuleList(
            [
                EncoderDecoderAttention(
                    dim,
                    writing.num_heads,
                    writing.ffn_dim,
                    norm_first=True,
                    activation=activation,
                    norm_eps=eps,
                    **factory,
                )
                for _ in range(writing.num_layers)
            ]
            if writing is not None
            else []
        )
        self.decoder_norm: Any = layer_norm(dim, eps=eps, **factory) if has_decoder else None

    @checked
    def encode(
        self,
        source: Float[Tensor, "batch frames features"],
        source_mask: Shaped[Tensor, "..."] | None = None,
        *,
        need_weights: bool = False,
    ) -> EncoderOutput:
        """Encode audio frames.

        Args:
            source: audio frames, `(batch, frames, num_features)`, at most twice `max_frames`.
            source_mask: boolean or 0/1 mask, True or 1 at real frames, `(batch, frames)`; padding frames have no
                influence. After the convolutions a position is padding if both of its frames are. A mask of these
                positions, `(batch, (frames + 1) // 2)`, is also accepted. None for no padding, as in Whisper.
            need_weights: whether to return the attention weights of every layer.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match, or there are more frames than position embeddings.
        """
        check_sequence("source", source, self.config.num_features)
        length, most = (source.shape[1] + 1) // 2, self.config.max_frames
        if length > most:
            raise ValueError(f"source must have at most {2 * most} frames, got {source.shape[1]}")
        real = real_frames(source_mask, source.shape[0], source.shape[1])
        source_mask = None if real is None else halved(real)[:, None, None]  # batch 1 1 length
        x = gelu(convolve(self.frame_conv, _without_padding(source, real)))
        x = _without_padding(x, real)  # batch frames embed
        x = gelu(convolve(self.halving_conv, x))
        x = x + self.frame_position_embedding(
            torch.arange(length, device=source.device)
        )  # batch length embed
        layers = []
        for layer in self.encoder_layers:
            layers.append(layer(x, source_mask, need_weights=need_weights))
            x = layers[-1].output  # batch length embed
        weights = all_weights(layer.weights for layer in layers)
        return EncoderOutput(normalise(self.encoder_norm, x), None, weights)

    @checked
    def decode(
        self,
        target: Int[Tensor, "batch target"],
        memory: Float[Tensor, "batch source embed"],
        target_mask: Shaped[Tensor, "..."] | None = None,
        source_mask: Shaped[Tensor, "..."] | None = None,
        *,
        caches: tuple[Cache, ...] | None = None,
        need_weights: bool = False,
    ) -> SequenceOutput:
        """Compute the logits of the next token after each token of `target`.

        Args:
            target: token ids generated so far; with `caches`, only the new ones.
            memory: output of `encode`.
            target_mask: boolean mask, True where a query may attend to a key, combined with the causal mask; or
                `(batch, target)`, True at real tokens; None for no mask.
            source_mask: as in `encode`.
            caches: KV cache of each layer, for incremental decoding; `start` returns empty ones; None without caches.
            need_weights: whether to return the attention weights of every layer.

        Raises:
            ValueError: shapes do not match, or the model has no decoder.
        """
        config, stack = self.config, self.config.decoder
        if stack is None:
            raise ValueError("this model has no decoder and so no logits; call its encode")
        target_mask = token_mask(target_mask, target.shape, name="target_mask")
        source_mask = _memory_mask(source_mask, memory.shape[0], memory.shape[1])
        check_decoding(target, target_mask, caches, stack.num_layers, stack.num_heads)
        check_numbers("target", target, config.vocab_size)
        positions = places(target, None, caches, config.max_len)  # target
        x = self.token_embedding(target) * config.embed_scale  # batch target embed
        x = x + self.position_embedding(positions)  # batch target embed
        layers = []
        for layer, cache in zip(self.decoder_layers, caches or (None,) * stack.num_layers, strict=True):
            layers.append(layer(x, memory, target_mask, source_mask, cache=cache, need_weights=need_weights))
            x = layers[-1].output  # batch target embed
        logits = similarities(self.token_embedding, normalise(self.decoder_norm, x))  # batch target vocab
        return sequence_output(logits, layers)


def real_frames(
    mask: Shaped[Tensor, "..."] | None, batch: int, frames: int
) -> Bool[Tensor, "batch frames"] | None:
    """Boolean mask of the real frames, from a mask of frames or of encoder positions; None if all are real.

    Raises:
        TypeError: the mask is neither boolean nor 0/1.
        ValueError: the mask has another shape.
    """
    if mask is None:
        return None
    length = (frames + 1) // 2
    if mask.ndim == 2 and not (has_size(mask.shape[1], frames) or has_size(mask.shape[1], length)):
        raise ValueError(
            f"source_mask must have shape (batch, frames) = {(batch, frames)}, "
            f"or {(batch, length)} for the positions after the convolutions, got {tuple(mask.shape)}"
        )
    is_of_positions = mask.ndim > 0 and has_size(mask.shape[-1], length)
    size = length if is_of_positions else frames
    keys: Any = token_mask(mask, (batch, size), name="source_mask")
    check_padding_mask(keys, batch, size, name="source_mask")
    real = keys[:, 0, 0]  # batch frames|length
    return repeat(real, "batch length -> batch (length two)", two=2)[:, :frames] if is_of_positions else real


def halved(real: Bool[Tensor, "batch frames"]) -> Bool[Tensor, "batch length"]:
    """Boolean mask of the encoder positions after the convolutions: True if one of the two frames is real."""
    length = (real.shape[1] + 1) // 2
    even = torch.concatenate((real, real[:, -1:]), dim=1)[:, : 2 * length]  # batch frames
    return rearrange(even, "batch (length two) -> batch length two", two=2).any(-1)


def _without_padding(
    x: Float[Tensor, "batch frames features"], real: Bool[Tensor, "batch frames"] | None
) -> Float[Tensor, "batch frames features"]:
    """Set padding frames to zero, like the zero padding of a convolution."""
    return x if real is None else torch.where(real[..., None], x, 0.0)


def _memory_mask(mask: Shaped[Tensor, "..."] | None, batch: int, length: int) -> Bool[Tensor, "..."] | None:
    """Convert the source mask to encoder positions, after the convolutions; a batch of 1 is broadcast."""
    if mask is None:
        return None
    rows = 1 if tuple(mask.shape[:1]) == (1,) else batch
    frames = (2 * length - 1, 2 * length)
    if mask.ndim in (2, 4) and mask.shape[-1] != length and mask.shape[-1] in frames:
        real = real_frames(mask, rows, mask.shape[-1])
        return None if real is None else halved(real)[:, None, None]  # batch|1 1 1 length
    return token_mask(mask, (rows, length), name="source_mask")
