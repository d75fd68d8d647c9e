"""Whole models, built from the mechanisms."""

from jax_attention.models.encoder import Encoder as Encoder
from jax_attention.models.encoder import EncoderConfig as EncoderConfig
from jax_attention.models.encoder import EncoderKeep as EncoderKeep
from jax_attention.models.encoder import EncoderLayer as EncoderLayer
from jax_attention.models.encoder import EncoderLayerKeep as EncoderLayerKeep
