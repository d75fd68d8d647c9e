"""`transfer` refuses what a live module says and its tensors cannot."""

import numpy as np
import pytest
import torch
from flax import nnx
from transformers.pytorch_utils import Conv1D

from attention_bridge.errors import ConversionError
from attention_bridge.weights import transfer
from torch_attention import MultiHeadSelfAttention


def holding(theirs, ours):
    first, second = torch.nn.Module(), nnx.Module()
    first.part, second.part = theirs, ours
    return first, second


@pytest.mark.parametrize("nested", [False, True])
def test_a_key_of_zeros_is_refused(nested):
    theirs = torch.nn.MultiheadAttention(6, 2, add_zero_attn=True)
    source, target = theirs, MultiHeadSelfAttention(6, 2)
    if nested:
        source, target = torch.nn.ModuleDict({"a": theirs}), torch.nn.ModuleDict({"a": target})
    with pytest.raises(ConversionError, match="add_zero_attn=True"):
        transfer(source, target, source_layout="torch.mha")


def test_a_square_conv1d_is_refused_both_ways():
    source, target = holding(Conv1D(6, 6), nnx.Linear(6, 6, rngs=nnx.Rngs(0)))
    for first, second in ((source, target), (target, source)):
        with pytest.raises(ConversionError, match="Conv1D of transformers"):
            transfer(first, second)


def test_a_square_transposed_convolution_is_refused_both_ways():
    source, target = holding(torch.nn.ConvTranspose1d(6, 6, 3), nnx.ConvTranspose(6, 6, 3, rngs=nnx.Rngs(0)))
    for first, second in ((source, target), (target, source)):
        with pytest.raises(ConversionError, match="a transposed convolution"):
            transfer(first, second)


def test_nothing_is_written_by_a_refusal():
    source, target = holding(Conv1D(6, 6), nnx.Linear(6, 6, rngs=nnx.Rngs(0)))
    before = np.array(target.part.kernel[...])
    with pytest.raises(ConversionError):
        transfer(source, target)
    assert (np.asarray(target.part.kernel[...]) == before).all()
