"""The command `attention-bridge`: it parses, calls and prints, and no more; each command has a file."""

from attention_bridge.cli.application import app as app
from attention_bridge.cli.application import main as main
