"""Whole models, built from the mechanisms."""

from torch_attention.models.decoder import Decoder as Decoder
from torch_attention.models.decoder import DecoderConfig as DecoderConfig
from torch_attention.models.decoder import DecoderLayer as DecoderLayer
from torch_attention.models.encoder import Encoder as Encoder
from torch_attention.models.encoder import EncoderConfig as EncoderConfig
from torch_attention.models.encoder import EncoderLayer as EncoderLayer
from torch_attention.models.generation import generate as generate
