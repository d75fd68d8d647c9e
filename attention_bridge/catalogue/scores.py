"""Other ways from scores to weights."""

from attention_bridge.catalogue.mechanism import Mechanism

SCORES_FAMILY: tuple[Mechanism, ...] = ()
