"""Keras files: attention layers, configurations, and conversion in both directions."""
