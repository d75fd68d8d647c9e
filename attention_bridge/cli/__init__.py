"""The command `attention-bridge`: it parses options, calls the library and prints; one file per command."""

from attention_bridge.cli.application import app as app
from attention_bridge.cli.application import main as main
