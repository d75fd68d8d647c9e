"""Whole models: the weights are compared, then each submodule gets the reference's inputs and is compared alone.

search.py         the diagnosis
weights.py        the weights of both models, and the port with the right ones
weight_faults.py  names for weights that differ
values.py         layers that hold the same values
recording.py      the calls of all submodules
nested.py         arrays in nested arguments and results
stages.py         the submodules that differ on equal inputs
single.py         models in 16 bits, in float32
attributes.py     options that differ, and the port with the right ones
norms.py          a norm, fitted to both outputs
attention_layers.py  attention layers: projections, masks, biases and caches from the reference's calls
attention.py      attention, fitted to the reference
target.py         an attention layer on one input, and the outputs to fit
searches.py       one number fitted: RoPE's base or linear scaling, a softcap, ALiBi's slopes
angles.py         RoPE's angles fitted one by one: linear, llama3 and YaRN scaling
core.py           attention between its projections, right or with a mistake
mistakes.py       the mistakes of attention
relations.py      how one array follows from another
counts.py         integers: buckets of distances, positions beside padding
finding.py        the result, with a one-sentence verdict
"""
