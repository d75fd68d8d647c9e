"""Fewer keys than there are positions."""

from attention_bridge.catalogue.mechanism import Mechanism

LOW_RANK_FAMILY: tuple[Mechanism, ...] = ()
