"""Whole models, built from the mechanisms."""

from jax_attention.models.decoder import Decoder as Decoder
from jax_attention.models.decoder import DecoderConfig as DecoderConfig
from jax_attention.models.decoder import DecoderLayer as DecoderLayer
from jax_attention.models.encoder import Encoder as Encoder
from jax_attention.models.encoder import EncoderConfig as EncoderConfig
from jax_attention.models.encoder import EncoderLayer as EncoderLayer
from jax_attention.models.generation import generate as generate
