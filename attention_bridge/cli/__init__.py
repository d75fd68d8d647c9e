"""The command `attention-bridge`."""

from attention_bridge.cli.app import app, main

__all__ = ["app", "main"]
