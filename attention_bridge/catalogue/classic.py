"""What came before and beside dot products."""

from attention_bridge.catalogue.mechanism import Mechanism

CLASSIC_FAMILY: tuple[Mechanism, ...] = ()
