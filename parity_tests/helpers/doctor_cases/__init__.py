"""Sixty variants for the doctor of whole models: small references, and ports with one mistake each."""
