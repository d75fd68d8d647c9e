"""Attention of and to learned vectors, and over sets."""
