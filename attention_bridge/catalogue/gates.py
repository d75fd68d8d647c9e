"""Attention that is let through, subtracted or forgotten."""

from attention_bridge.catalogue.mechanism import Mechanism

GATES_FAMILY: tuple[Mechanism, ...] = ()
