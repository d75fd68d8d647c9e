"""Attention over images and grids."""

from torch_attention.vision.axial import AxialAttention as AxialAttention
from torch_attention.vision.axial import AxialKeep as AxialKeep
from torch_attention.vision.axial import AxialOutput as AxialOutput
from torch_attention.vision.cosine_window import CosineWindowAttention as CosineWindowAttention
from torch_attention.vision.decomposed_position import (
    DecomposedPositionAttention as DecomposedPositionAttention,
)
from torch_attention.vision.grids import GridOutput as GridOutput
from torch_attention.vision.patch_grids import PatchGrid as PatchGrid
from torch_attention.vision.patch_grids import PatchMerging as PatchMerging
from torch_attention.vision.spatial_reduction import SpatialReductionAttention as SpatialReductionAttention
from torch_attention.vision.vit import PatchEmbedding as PatchEmbedding
from torch_attention.vision.vit import ViTBlock as ViTBlock
from torch_attention.vision.window import ShiftedWindowAttention as ShiftedWindowAttention
from torch_attention.vision.window import WindowAttention as WindowAttention
