"""Attention of and to learned vectors, and over sets."""

from attention_bridge.catalogue.mechanism import Mechanism

LATENTS_FAMILY: tuple[Mechanism, ...] = ()
