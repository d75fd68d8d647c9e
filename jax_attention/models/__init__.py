"""Whole models, built from the mechanisms."""

from jax_attention.models.encoder import Encoder as Encoder
from jax_attention.models.encoder import EncoderConfig as EncoderConfig
from jax_attention.models.encoder import EncoderLayer as EncoderLayer
