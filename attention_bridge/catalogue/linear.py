"""Attention without a softmax, in time linear in the length."""

from attention_bridge.catalogue.mechanism import Mechanism

LINEAR_FAMILY: tuple[Mechanism, ...] = ()
