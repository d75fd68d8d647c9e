"""Attention that is let through, subtracted or forgotten."""
