r"""Hierarchical vision models: stages of layers on ever coarser grids, such as Swin and Swin v2.

$$ g_s = \mathrm{norm}_s(\mathrm{layers}_s(\mathrm{embedding}_s(g_{s-1}))), \qquad g_0 = \text{image}, \qquad
   y = \mathrm{pooling}(\mathrm{norm}(g_S)) $$

The embedding of a stage makes its grid from the image or from the previous stage's grid. The layers are described as in
a `ModelSpec`; their mixers are classes of `vision`, such as shifted windows:

    layer = LayerSpec(Part("ShiftedWindowAttention", {"num_heads": 3, "window_size": 7}), Part("FeedForward", {...}))
    first = StageSpec(96, Part("PatchGrid", {"patch_size": (4, 4)}), (layer, layer))
    second = StageSpec(192, Part("PatchMerging"), (...))
    model = VisionHierarchy(VisionHierarchySpec((224, 224), 3, (first, second)))
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.checks import check_at_least
from torch_attention.layers import Factory
from torch_attention.models.arrangements.layer import LayerCall
from torch_attention.models.description import Part, StageSpec
from torch_attention.models.layer_builder import build_grid_layer
from torch_attention.models.part_builder import build, build_on_grid, build_pooling
from torch_attention.norms import normalise
from torch_attention.outputs import HierarchyOutput, all_weights
from torch_attention.vision.grids import check_grid, flatten_grid


@checked
@dataclass(frozen=True)
class VisionHierarchySpec:
    """Description of a hierarchical vision model, stage by stage.

    Attributes:
        image_size: height and width of the images; without learned positions, images of other sizes are accepted.
        in_channels: number of channels of an image.
        stages: stages of the model, in order.
        norm: norm of the last stage's output; None for no norm.
        pooling: pooling of the normalised output, such as `MeanPooling`; None for none.

    Raises:
        ValueError: `stages` is empty.
    """

    image_size: tuple[int, int]
    in_channels: int
    stages: tuple[StageSpec, ...]
    norm: Part | None = None
    pooling: Part | None = None

    def __post_init__(self) -> None:
        check_at_least(1, stages=len(self.stages))

    @property
    def output_dim(self) -> int:
        """Features of the last hidden states."""
        return self.stages[-1].embed_dim


@checked
class Stage(nn.Module):
    """One stage: embedding of its grid, layers, and perhaps a norm (Liu et al. 2021, section 3.1).

    Args:
        config: description of the stage.
        in_dim: features of the grid that it reads, or channels of the image.
        image_size: height and width of the image, for the first stage; None for others.

    Raises:
        ValueError: a part is unknown or does not fit.
    """

    def __init__(
        self,
        config: StageSpec,
        in_dim: int,
        image_size: tuple[int, int] | None = None,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dim = config.embed_dim
        known = {"in_dim": in_dim, "embed_dim": dim, "image_size": image_size}
        self.embedding: Any = build_on_grid("embedding", config.embedding, known, {**factory})
        self.layers: Any = nn.ModuleList(
            [build_grid_layer(layer, dim, {**factory}) for layer in config.layers]
        )
        self.norm: Any = None if config.norm is None else build(config.norm, {"dim": dim}, {**factory})

    def forward(
        self, x: Float[Tensor, "batch height width channels"], *, need_weights: bool = False
    ) -> tuple[list[Float[Tensor, "batch rows columns embed"]], list[Float[Tensor, "batch ..."] | None]]:
        """Run the stage.

        Returns:
            The input of the first layer, the output of the last one, and that output after the norm; and the attention
            weights of each layer, or None.
        """
        call: LayerCall = {
            "positions": None,
            "position": None,
            "memory": None,
            "reads_on": False,
            "need_weights": need_weights,
        }
        embedded = x = self.embedding(x)  # batch rows columns embed
        weights = []
        for layer in self.layers:
            read = layer.finish(layer(x, **call), None)
            weights.append(read.weights)
            x = read.output  # batch rows columns embed
        return [embedded, x, x if self.norm is None else normalise(self.norm, x)], weights


@checked
class VisionHierarchy(nn.Module):
    """Hierarchical vision model, from images to grids of several resolutions (Liu et al. 2021).

    Args:
        config: description of the model.

    Raises:
        ValueError: a part is unknown or does not fit.
    """

    def __init__(
        self,
        config: VisionHierarchySpec,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        dims = (config.in_channels, *(stage.embed_dim for stage in config.stages))
        self.config = config
        self.stages: Any = nn.ModuleList(
            [
                Stage(stage, in_dim, None if n else config.image_size, **factory)
                for n, (stage, in_dim) in enumerate(zip(config.stages, dims, strict=False))
            ]
        )
        self.final_norm: Any = (
            None if config.norm is None else build(config.norm, {"dim": dims[-1]}, {**factory})
        )
        self.pooling: Any = (
            None if config.pooling is None else build_pooling(config.pooling, dims[-1], {**factory})
        )

    def forward(
        self,
        image: Float[Tensor, "batch height width channels"],
        *,
        need_weights: bool = False,
        need_hidden_states: bool = False,
    ) -> HierarchyOutput:
        """Encode images.

        Args:
            image: images `(batch, height, width, channels)`; without learned positions, of any size.
            need_weights: whether to return the attention weights of every layer.
            need_hidden_states: whether to return the hidden states: the input of the first layer of every stage, and
                the output of the last layer.

        Raises:
            ValueError: the images have other channels, or a size that the model does not take.
        """
        check_grid("image", image, self.config.in_channels)
        x, states, maps, weights = image, [], [], []
        for stage in self.stages:
            (embedded, last, x), found = stage(x, need_weights=need_weights)
            states.append(embedded)
            maps.append(x)
            weights.extend(found)
        states.append(last)
        x = x if self.final_norm is None else normalise(self.final_norm, x)
        hidden = flatten_grid(x)  # batch area embed
        return HierarchyOutput(
            hidden,
            None if self.pooling is None else self.pooling(hidden),
            all_weights(weights),
            tuple(states) if need_hidden_states else None,
            tuple(maps),
        )
