"""Encoders of sound: positions by convolution, norms over time, masks of samples, heads; against NumPy in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention.models as in_jax
import torch_attention.models as in_torch
from attention_bridge.parity.comparison import error
from attention_bridge.weights import transfer
from jax_attention.models.sound_positions import ConvolutionalEmbedding as ConvolutionalEmbeddingInJax
from parity_tests.helpers.program import program
from parity_tests.mechanisms.test_heads import numpy
from torch_attention.activations import gelu
from torch_attention.models.sound_positions import ConvolutionalEmbedding

BATCH, SAMPLES, DIM = 2, 61, 6
CLOSE = 1e-12  # of float64


def description(models, **changed):
    layer = models.LayerSpec(
        models.Part("MultiHeadSelfAttention", {"num_heads": 3}),
        models.Part("FeedForward", {"ffn_dim": 8}),
        "post",
        models.Part("layer_norm"),
    )
    sizes = {"conv_dims": (5, 7), "conv_kernels": (4, 3), "conv_strides": (3, 2), "position_kernel": 4}
    return models.WaveformSpec(DIM, (layer, layer), **{**sizes, "position_groups": 2, **changed})


def weights(rng, model):
    return {name: 0.5 * rng.standard_normal(x.shape) for name, x in model.state_dict().items()}


@pytest.fixture(params=["torch", "jax"])
def mirror(request, rng):
    """Build a model in float64 with random weights, equal in both mirrors, and convert its inputs and outputs."""

    def built(make):
        w = weights(rng, make(in_torch, device="meta"))
        if request.param == "torch":
            model = transfer(w, make(in_torch, dtype=torch.float64)).eval()
            return lambda *given: model(*map(torch.from_numpy, given))
        model = transfer(w, make(in_jax, rngs=nnx.Rngs(0), param_dtype=jnp.float64))
        run = program(model, lambda model, *given: model(*given))
        return lambda *given: run(*map(jnp.asarray, given))

    if request.param == "torch":
        yield built
    else:
        with jax.enable_x64(True):
            yield built


def encoder(models, *, changed, **factory):
    return models.WaveformEncoder(description(models, **changed), **factory)


def classifier(models, **factory):
    head = models.Part(
        "SequenceClassifier", {"num_classes": 4, "hidden_dim": 9, "pooling": models.Part("MeanPooling")}
    )
    return models.TaskModel(models.TaskSpec(description(models), head), **factory)


@pytest.mark.parametrize("changed", [{}, {"conv_norm": "each", "conv_bias": True}], ids=["first", "each"])
def test_padding_changes_nothing(mirror, rng, changed):
    """Each sound of a padded batch has the states that it has alone; padding may hold any number."""
    run = mirror(partial(encoder, changed=changed))
    samples = rng.standard_normal((BATCH, SAMPLES))
    there = np.arange(SAMPLES) < np.array([[SAMPLES], [SAMPLES - 20]])
    padded = numpy(run(np.where(there, samples, np.inf), there).last_hidden_state)
    for row, real in zip(range(BATCH), there.sum(1), strict=True):
        alone = numpy(run(samples[row : row + 1, :real]).last_hidden_state)[0]
        assert error(padded[row, : len(alone)], alone) < CLOSE
    assert error(padded, numpy(run(samples).last_hidden_state)) > 1e-6  # the mask matters


def test_classifier_averages_the_real_frames(mirror, rng):
    run = mirror(classifier)
    samples = rng.standard_normal((BATCH, SAMPLES))
    there = np.arange(SAMPLES) < np.array([[SAMPLES], [SAMPLES - 20]])
    found = numpy(run(samples, there).logits)
    for row, real in zip(range(BATCH), there.sum(1), strict=True):
        assert error(found[row], numpy(run(samples[row : row + 1, :real]).logits)[0]) < CLOSE


@pytest.mark.parametrize("kernel_size", [4, 5])
def test_positions_are_a_convolution_with_a_normalised_kernel(rng, kernel_size):
    """Each tap of the kernel has the Frobenius norm that `length` states; an even kernel sees one more frame before."""
    sizes, length, groups = (DIM, kernel_size), 7, 2
    direction, bias = rng.standard_normal((DIM, DIM // groups, kernel_size)), rng.standard_normal(DIM)
    lengths, x = rng.standard_normal(kernel_size), rng.standard_normal((BATCH, length, DIM))
    kernel = direction / np.sqrt((direction**2).sum((0, 1))) * lengths
    around = np.pad(x, ((0, 0), (kernel_size // 2, kernel_size), (0, 0)))
    added = np.empty_like(x) + np.nan
    for out in range(DIM):
        first = out // (DIM // groups) * (DIM // groups)
        for n in range(length):
            seen = around[:, n : n + kernel_size, first : first + DIM // groups]  # batch kernel group
            added[:, n, out] = np.einsum("bkg,gk->b", seen, kernel[out]) + bias[out]
    expected = x + gelu(torch.from_numpy(added)).numpy()
    w = {"direction": direction, "length": lengths, "bias": bias}
    module = transfer(w, ConvolutionalEmbedding(*sizes, groups, dtype=torch.float64))
    assert error(numpy(module(torch.from_numpy(x))), expected) < CLOSE
    with jax.enable_x64(True):
        other = ConvolutionalEmbeddingInJax(*sizes, groups, rngs=nnx.Rngs(0), param_dtype=jnp.float64)
        assert error(numpy(transfer(w, other)(jnp.asarray(x))), expected) < CLOSE


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"conv_strides": (3,)}, "one number per convolution, got 2, 2 and 1"),
        ({"conv_norm": "all"}, "conv_norm must be first or each, got 'all'"),
    ],
)
def test_impossible_sizes_raise(changed, sentence):
    for models in (in_torch, in_jax):
        with pytest.raises(ValueError, match=sentence):
            description(models, **changed)


def test_hidden_frames_are_replaced_by_the_learned_vector(rng, as_shipped):
    """The content of hidden frames has no influence, except where norms and convolutions see other frames."""
    model = in_torch.WaveformEncoder(description(in_torch, conv_norm="each", masked_frame=True)).eval()
    other = transfer(
        model,
        in_jax.WaveformEncoder(description(in_jax, conv_norm="each", masked_frame=True), rngs=nnx.Rngs(0)),
    )
    samples = rng.standard_normal((1, SAMPLES)).astype(np.float32)
    changed = samples.copy()
    changed[:, :4] = 0.3  # seen by the first frame alone
    hidden = np.arange(9)[None] < 1
    found = [
        numpy(model(torch.from_numpy(x), hidden=torch.from_numpy(hidden)).output) for x in (samples, changed)
    ]
    assert found[0].shape[1] == hidden.shape[1]
    np.testing.assert_array_equal(*found)
    assert error(numpy(model(torch.from_numpy(samples)).output), found[0]) > 1e-3
    run = program(other, lambda other, x, hidden: other(x, hidden=hidden).output)
    assert error(numpy(run(jnp.asarray(samples), jnp.asarray(hidden))), found[0]) < 1e-5
    for run, array in ((model, torch.from_numpy), (other, jnp.asarray)):
        with pytest.raises(
            ValueError, match=r"hidden must have shape \(batch, frames\) = \(1, 9\), got \(1, 1\)"
        ):
            run(array(samples), hidden=array(hidden[:, :1]))
        with pytest.raises(ValueError, match=r"samples must have shape \(batch, samples\), got \(61,\)"):
            run(array(samples[0]))
    bare = in_torch.WaveformEncoder(description(in_torch))
    with pytest.raises(ValueError, match="hidden must be None for a model without masked_frame"):
        bare(torch.from_numpy(samples), hidden=torch.from_numpy(hidden))


def test_too_few_samples_raise():
    model = in_torch.WaveformEncoder(description(in_torch))
    assert model.fewest_samples == 10
    assert model(torch.zeros(1, 10)).last_hidden_state.shape == (1, 1, DIM)
    other = in_jax.WaveformEncoder(description(in_jax), rngs=nnx.Rngs(0))
    for run in (lambda: model(torch.zeros(1, 9)), lambda: other(jnp.zeros((1, 9)))):
        with pytest.raises(ValueError, match="number_of_samples must be at least 10, got 9"):
            run()
