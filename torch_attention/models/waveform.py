r"""An encoder of sound from its samples, as wav2vec 2.0 (Baevski et al. 2020) and HuBERT (Hsu et al. 2021).

$$ z = \mathrm{conv}_n(\dots\, \mathrm{conv}_1(s)), \qquad x = W\, \mathrm{norm}(z), \qquad
   h = \mathrm{layers}(x + \mathrm{gelu}(C * x)) $$

The first convolutions turn the samples s into frames z, some 50 per second; the convolution C adds the positions, see
`ConvolutionalEmbedding`. The layers are described as in a `ModelSpec`, with full attention.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_at_least, check_boolean
from torch_attention.layers import Factory, linear, parameter
from torch_attention.models.depth import run_layers
from torch_attention.models.description import LayerSpec, Part
from torch_attention.models.frame_convolution import FrameConvolution
from torch_attention.models.layer_builder import build_layer
from torch_attention.models.part_builder import build
from torch_attention.models.sound_positions import ConvolutionalEmbedding
from torch_attention.models.token_masks import token_mask
from torch_attention.norms import layer_norm, normalise
from torch_attention.outputs import HiddenOutput, all_weights


@checked
@dataclass(frozen=True)
class WaveformSpec:
    """Description of an encoder of sound.

    Attributes:
        embed_dim: number of features per frame.
        layers: layers of the model, in order.
        conv_dims: channels of each convolution of the samples.
        conv_kernels: kernel size of each convolution.
        conv_strides: stride of each convolution.
        conv_bias: whether these convolutions have biases.
        conv_norm: `"first"` normalises each channel of the first convolution over time, `"each"` the channels of every
            frame after every convolution.
        conv_activation: activation of all convolutions, as in `FeedForward`.
        frame_norm_eps: epsilon of the norm of the frames before the projection; None for no norm.
        position_kernel: number of frames that the positional convolution sees.
        position_groups: number of groups of that convolution; must divide `embed_dim`.
        embedding_norm: norm of the input of the first layer; None for no norm.
        norm: norm of the output of the last layer; None for no norm.
        masked_frame: whether the model has a learned vector for frames that a call hides, as in pretraining.

    Raises:
        ValueError: `layers` is empty, or there is not one kernel size and stride per convolution.
    """

    embed_dim: int
    layers: tuple[LayerSpec, ...]
    conv_dims: tuple[int, ...] = (512,) * 7
    conv_kernels: tuple[int, ...] = (10, 3, 3, 3, 3, 2, 2)
    conv_strides: tuple[int, ...] = (5, 2, 2, 2, 2, 2, 2)
    conv_bias: bool = False
    conv_norm: str = "first"
    conv_activation: str = "gelu"
    frame_norm_eps: float | None = 1e-5
    position_kernel: int = 128
    position_groups: int = 16
    embedding_norm: Part | None = field(default_factory=lambda: Part("layer_norm"))
    norm: Part | None = None
    masked_frame: bool = False

    def __post_init__(self) -> None:
        check_at_least(1, layers=len(self.layers), conv_dims=len(self.conv_dims))
        if self.conv_norm not in ("first", "each"):
            raise ValueError(f"conv_norm must be first or each, got {self.conv_norm!r}")
        if not len(self.conv_dims) == len(self.conv_kernels) == len(self.conv_strides):
            raise ValueError(
                "conv_dims, conv_kernels and conv_strides must have one number per convolution, "
                f"got {len(self.conv_dims)}, {len(self.conv_kernels)} and {len(self.conv_strides)}"
            )


@checked
class WaveformEncoder(nn.Module):
    """Encoder of sound, from samples to one vector per frame (Baevski et al. 2020).

    Args:
        config: sizes and options of the model.

    Raises:
        ValueError: a part is unknown or does not fit.
    """

    def __init__(
        self,
        config: WaveformSpec,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim, norm, channels = config.embed_dim, {"dim": config.embed_dim}, config.conv_dims
        self.config = config
        self.convs: Any = nn.ModuleList(
            [
                FrameConvolution(
                    before,
                    after,
                    kernel,
                    stride,
                    bias=config.conv_bias,
                    norm=(None if n else "channel") if config.conv_norm == "first" else "layer",
                    activation=config.conv_activation,
                    factory=factory,
                )
                for n, (before, after, kernel, stride) in enumerate(
                    zip((1, *channels), channels, config.conv_kernels, config.conv_strides, strict=False)
                )
            ]
        )
        self.frame_norm: Any = (
            None
            if config.frame_norm_eps is None
            else layer_norm(channels[-1], eps=config.frame_norm_eps, **factory)
        )
        self.frame_proj = linear(channels[-1], dim, **factory)
        self.masked_frame = parameter(dim, **factory) if config.masked_frame else None
        self.position_embedding = ConvolutionalEmbedding(
            dim,
            config.position_kernel,
            config.position_groups,
            activation=config.conv_activation,
            **factory,
        )
        self.embedding_norm: Any = (
            None if config.embedding_norm is None else build(config.embedding_norm, norm, {**factory})
        )
        self.layers: Any = nn.ModuleList(
            [build_layer(layer, dim, {**factory}, is_causal=False) for layer in config.layers]
        )
        self.final_norm: Any = None if config.norm is None else build(config.norm, norm, {**factory})

    def forward(
        self,
        samples: Float[Tensor, "batch samples"],
        mask: Shaped[Tensor, "..."] | None = None,
        *,
        hidden: Bool[Tensor, "batch frames"] | None = None,
        need_weights: bool = False,
        need_hidden_states: bool = False,
    ) -> HiddenOutput:
        """Encode sounds.

        Args:
            samples: sound pressure at each time, `(batch, samples)`, mostly with mean 0 and variance 1.
            mask: boolean or 0/1 mask, True or 1 at real samples, `(batch, samples)`; padding has no influence. A frame
                is padding if one of its samples is. None for no padding.
            hidden: True at frames that are replaced by the learned vector `masked_frame`, as in pretraining; None for
                none.
            need_weights: whether to return the attention weights of every layer.
            need_hidden_states: whether to return the hidden states: the first layer's input and every layer's output.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match, there are too few samples for one frame, or frames are hidden from a model
                without `masked_frame`.
        """
        if samples.ndim != 2:
            raise ValueError(f"samples must have shape (batch, samples), got {tuple(samples.shape)}")
        check_at_least(self.fewest_samples, number_of_samples=samples.shape[1])
        real = _real(mask, samples)  # batch samples
        x = samples[..., None] if real is None else torch.where(real, samples, 0.0)[..., None]
        for conv in self.convs:
            real = None if real is None else conv.frame_mask(real)  # batch frames
            x = conv(x, real)  # batch frames channels
        x = x if self.frame_norm is None else normalise(self.frame_norm, x)
        x = self.frame_proj(x)  # batch frames embed
        if hidden is not None:
            check_boolean("hidden", hidden)
            if hidden.shape != x.shape[:2]:
                raise ValueError(
                    f"hidden must have shape (batch, frames) = {tuple(x.shape[:2])}, got {tuple(hidden.shape)}"
                )
            x = torch.where(hidden[..., None], self._replacement(), x)  # batch frames embed
        x = x if real is None else torch.where(real[..., None], x, 0.0)
        x = self.position_embedding(x)  # batch frames embed
        x = x if self.embedding_norm is None else normalise(self.embedding_norm, x)
        read = run_layers(
            self.layers,
            x,
            None if real is None else real[:, None, None],
            (None,) * len(self.layers),
            {
                "positions": None,
                "position": None,
                "memory": None,
                "reads_on": False,
                "need_weights": need_weights,
            },
            scan_layers=False,
            remat=False,
        )
        last = read[-1].output  # batch frames embed
        return HiddenOutput(
            last if self.final_norm is None else normalise(self.final_norm, last),
            None,
            all_weights(each.weights for each in read),
            (x, *(each.output for each in read)) if need_hidden_states else None,
        )

    @checked
    def frame_mask(
        self, mask: Shaped[Tensor, "..."], samples: Float[Tensor, "batch samples"]
    ) -> Bool[Tensor, "batch frames"]:
        """Boolean mask of the frames whose samples are all real."""
        real: Any = _real(mask, samples)
        for conv in self.convs:
            real = conv.frame_mask(real)  # batch frames
        return real

    def _replacement(self) -> Float[Tensor, "embed"]:
        """The learned vector for hidden frames."""
        if self.masked_frame is None:
            raise ValueError("hidden must be None for a model without masked_frame")
        return self.masked_frame[...]

    @property
    def fewest_samples(self) -> int:
        """Number of samples that the first frame sees."""
        size = 1
        for kernel, stride in zip(
            self.config.conv_kernels[::-1], self.config.conv_strides[::-1], strict=True
        ):
            size = (size - 1) * stride + kernel
        return size


def _real(
    mask: Shaped[Tensor, "..."] | None, samples: Float[Tensor, "batch samples"]
) -> Bool[Tensor, "batch samples"] | None:
    """Boolean mask of the real samples, from a mask `(batch, samples)`; None if all are real."""
    if mask is None:
        return None
    keys: Any = token_mask(mask, samples.shape)
    if keys.shape[1:3] != (1, 1):
        raise ValueError(f"mask must have shape (batch, samples), got {tuple(mask.shape)}")
    return torch.broadcast_to(keys[:, 0, 0], samples.shape)
