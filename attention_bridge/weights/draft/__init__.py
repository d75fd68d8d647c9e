"""A layout between two models of one's own, proposed from their tensors and settled by their activations.

bundles.py    the layers of one side, with their tensors by role
fusing.py     layers that are one fused layer on the other side
axes.py       names and sizes of axes, and einops patterns made of them
forms.py      rules of single tensors, and their einops patterns
links.py      tensors of both sides that hold the same numbers
ways.py       the ways to read fused tensors
heads.py      possible numbers of heads
aligning.py   pairs of layers
choices.py    certain rules, and choices between several
deciding.py   aligned layers as certain rules and as choices
rules.py      rules with placeholders
running.py    runs of a model with any values in its tensors
settling.py   choices that are settled by running both models
source.py     a layout as Python source and as TOML
proposal.py   `Draft`, a proposed layout with its guesses
drafting.py   `draft_layout`
"""
