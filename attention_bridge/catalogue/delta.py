"""Recurrent memories that are corrected before they are written to."""

from attention_bridge.catalogue.mechanism import Mechanism

DELTA_FAMILY: tuple[Mechanism, ...] = ()
