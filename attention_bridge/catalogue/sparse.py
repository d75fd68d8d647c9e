"""Keys chosen by what they hold."""

from attention_bridge.catalogue.mechanism import Mechanism

SPARSE_FAMILY: tuple[Mechanism, ...] = ()
