"""Fewer keys than there are positions."""
