"""What can be done with each mechanism by the tools of its framework, found out by doing it.

`python -m attention_bridge.pages.uses` prints `docs/uses.md`, a table of mechanisms and uses.
"""
