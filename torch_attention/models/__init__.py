"""Whole models, built from the mechanisms."""

from torch_attention.models.encoder import Encoder as Encoder
from torch_attention.models.encoder import EncoderConfig as EncoderConfig
from torch_attention.models.encoder import EncoderLayer as EncoderLayer
