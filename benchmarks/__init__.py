"""Benchmarks of speed, memory and precision of both mirrors."""
