"""Attention over images and grids."""

from jax_attention.vision.axial import AxialAttention as AxialAttention
from jax_attention.vision.axial import AxialKeep as AxialKeep
from jax_attention.vision.axial import AxialOutput as AxialOutput
from jax_attention.vision.cosine_window import CosineWindowAttention as CosineWindowAttention
from jax_attention.vision.decomposed_position import (
    DecomposedPositionAttention as DecomposedPositionAttention,
)
from jax_attention.vision.grids import GridOutput as GridOutput
from jax_attention.vision.patch_grids import PatchGrid as PatchGrid
from jax_attention.vision.patch_grids import PatchMerging as PatchMerging
from jax_attention.vision.spatial_reduction import SpatialReductionAttention as SpatialReductionAttention
from jax_attention.vision.vit import PatchEmbedding as PatchEmbedding
from jax_attention.vision.vit import ViTBlock as ViTBlock
from jax_attention.vision.window import ShiftedWindowAttention as ShiftedWindowAttention
from jax_attention.vision.window import WindowAttention as WindowAttention
