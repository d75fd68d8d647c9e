"""`transfer` rejects options of a live module that its tensors cannot show."""

import numpy as np
import pytest
import torch
from flax import nnx
from transformers.pytorch_utils import Conv1D

import jax_attention
from attention_bridge.errors import ConversionError
from attention_bridge.weights import transfer
from jax_attention import models as jax_models
from torch_attention import MultiHeadSelfAttention
from torch_attention import models as torch_models

ENCODER = "torch.encoder_layer"


def holding(theirs, ours):
    first, second = torch.nn.Module(), nnx.Module()
    first.part, second.part = theirs, ours
    return first, second


@pytest.mark.parametrize("nested", [False, True])
def test_zero_attention_key_raises(nested):
    theirs = torch.nn.MultiheadAttention(6, 2, add_zero_attn=True)
    source, target = theirs, MultiHeadSelfAttention(6, 2)
    if nested:
        source, target = torch.nn.ModuleDict({"a": theirs}), torch.nn.ModuleDict({"a": target})
    with pytest.raises(ConversionError, match="add_zero_attn=True"):
        transfer(source, target, source_layout="torch.mha")


def test_square_conv1d_raises_both_ways_where_tensors_alone_decide():
    source, target = holding(Conv1D(6, 6), nnx.Linear(6, 6, rngs=nnx.Rngs(0)))
    for first, second in ((source, nnx.state(target)), (nnx.state(target), source)):
        with pytest.raises(ConversionError, match="Conv1D of transformers"):
            transfer(first, second)


def test_square_transposed_convolution_raises_both_ways_where_tensors_alone_decide():
    source, target = holding(torch.nn.ConvTranspose1d(6, 6, 3), nnx.ConvTranspose(6, 6, 3, rngs=nnx.Rngs(0)))
    for first, second in ((source, nnx.state(target)), (source.state_dict(), target)):
        with pytest.raises(ConversionError, match="a transposed convolution"):
            transfer(first, second)


def test_failed_transfer_writes_nothing():
    source, target = holding(Conv1D(6, 5), nnx.Linear(6, 6, rngs=nnx.Rngs(0)))
    before = np.array(target.part.kernel[...])
    with pytest.raises(ConversionError):
        transfer(source, target)
    assert (np.asarray(target.part.kernel[...]) == before).all()


def theirs_of(size, **options):
    return torch.nn.TransformerEncoderLayer(size, 2, 11, batch_first=True, **options)


def encoder_layer(models, **factory):
    return models.EncoderLayer(
        models.EncoderConfig(7, 6, 2, 1, 11, 5, activation="relu", norm_eps=1e-5), **factory
    )


MIRRORS = ((torch_models, {}), (jax_models, {"rngs": nnx.Rngs(0)}))


class TestOptionsThatNoTensorShows:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"activation": "gelu"}, "activation=gelu"),
            ({"activation": torch.tanh}, "activation=tanh"),
            ({"norm_first": True}, "norm_first=True"),
            ({"layer_norm_eps": 1e-2}, "eps=0.01"),
        ],
    )
    def test_options_of_an_encoder_layer_must_agree(self, options, said):
        for models, factory in MIRRORS:
            with pytest.raises(ConversionError, match=said):
                transfer(theirs_of(6, **options), encoder_layer(models, **factory), source_layout=ENCODER)

    @pytest.mark.parametrize("activation", ["relu", torch.nn.ReLU()])
    def test_equal_options_are_no_fault(self, activation):
        for models, factory in MIRRORS:
            transfer(
                theirs_of(6, activation=activation), encoder_layer(models, **factory), source_layout=ENCODER
            )

    def test_heads_must_agree(self):
        jax_layer = jax_attention.MultiHeadSelfAttention(8, 4, rngs=nnx.Rngs(0))
        for source in (torch.nn.MultiheadAttention(8, 2), MultiHeadSelfAttention(8, 2)):
            with pytest.raises(ConversionError, match="num_heads=2, as in the source"):
                transfer(source, jax_layer)
        with pytest.raises(ConversionError, match="num_heads=4, as in the source"):
            transfer(jax_layer, MultiHeadSelfAttention(8, 2))

    @pytest.mark.parametrize(
        ("theirs", "ours"),
        [
            (torch.nn.LayerNorm(4), nnx.LayerNorm(4, rngs=nnx.Rngs(0))),
            (torch.nn.GroupNorm(2, 4, eps=1e-6), nnx.GroupNorm(4, num_groups=4, rngs=nnx.Rngs(0))),
        ],
    )
    def test_options_of_norms_must_agree(self, theirs, ours):
        first, second = torch.nn.Module(), nnx.Module()
        first.norm, second.norm = theirs, ours
        with pytest.raises(ConversionError, match="as in the source"):
            transfer(first, second)


@pytest.mark.parametrize(
    "ours",
    [
        nnx.LinearGeneral(3, (3, 3), use_bias=False, rngs=nnx.Rngs(0)),
        nnx.Einsum("ab,cb->ac", (3, 3), rngs=nnx.Rngs(0)),
    ],
)
def test_kernels_with_extra_axes_raise_only_between_frameworks(ours):
    theirs = (
        torch.nn.Conv1d(3, 3, 3, bias=False) if ours.kernel.ndim == 3 else torch.nn.Linear(3, 3, bias=False)
    )
    source, target = holding(theirs, ours)
    for first, second in ((source, target), (target, source)):
        with pytest.raises(ConversionError, match="unexpected"):
            transfer(first, second)
    transfer(target, target)
