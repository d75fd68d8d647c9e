"""The list of all compared calls."""

from attention_bridge.rosetta.layers import LAYERS
from attention_bridge.rosetta.models import MODELS
from attention_bridge.rosetta.operations import OPERATIONS

PEERS = (*OPERATIONS, *LAYERS, *MODELS)
