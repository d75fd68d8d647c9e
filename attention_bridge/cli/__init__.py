"""The command `attention-bridge`."""

from attention_bridge.cli.commands import app, main

__all__ = ["app", "main"]
