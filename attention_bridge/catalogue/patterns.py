"""Who sees whom by a rule of places."""

from attention_bridge.catalogue.mechanism import Mechanism

PATTERNS_FAMILY: tuple[Mechanism, ...] = ()
