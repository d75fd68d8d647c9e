"""Generators of the pages in docs/ that are made from data and from runs."""
