"""Whole models: the weights are compared, then each submodule gets the reference's inputs and is compared alone.

search.py         the diagnosis
weights.py        the weights of both models, and the port with the right ones
weight_faults.py  names for weights that differ
values.py         layers that hold the same values
recording.py      the calls of all submodules
stages.py         the submodules that differ on equal inputs
single.py         models in 16 bits, in float32
attributes.py     options that differ, and the port with the right ones
norms.py          a norm, fitted to both outputs
attention.py      attention, fitted to the reference
core.py           attention between its projections, right or with a mistake
mistakes.py       the mistakes of attention
relations.py      how one array follows from another
finding.py        the result, with a one-sentence verdict
"""
