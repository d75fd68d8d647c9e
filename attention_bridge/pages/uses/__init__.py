"""Trials of each mechanism with the tools of its framework, such as `torch.export` or `nnx.scan`.

`python -m attention_bridge.pages.uses` prints the results as `docs/uses.md`, a table of mechanisms and tools.
"""
