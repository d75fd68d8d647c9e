"""Attention over images."""

from attention_bridge.catalogue.mechanism import Mechanism

VISION_FAMILY: tuple[Mechanism, ...] = ()
