"""Ahead-of-time compilation for accelerators, emulated matmul precision, and known miscompilations."""
