"""Encoder-decoders against a float64 NumPy reference: order of norms, kinds of positions, biases of the logits."""

import math

import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention.models as jax_models
import torch_attention.models as torch_models
from attention_bridge.weights import transfer
from parity_tests.helpers.built import MIRRORS
from parity_tests.helpers.program import program, write_on

DIM, HEADS, VOCAB, PAD, FIRST = 8, 2, 11, 0, 2
SOURCE, TARGET = np.array([[0, 4, 5, 0, 6], [7, 8, 0, 0, 9]]), np.array([[1, 4, 0, 5], [2, 6, 7, 8]])
SINES = ("SinusoidalEmbedding", {"interleaved": False})
OPTIONS = {
    "post-norm": {},
    "pre-norm": {"norm_first": True},
    "no norm of embeddings": {"embedding_norm": False, "embed_scale": 3.0},
    "positions after the norm": {"decoder_positions_last": True, "embed_scale": 3.0},
    "sinusoidal positions": {"embedding_position": SINES, "max_len": None},
    "uncounted token": {"embedding_position": SINES, "max_len": None, "uncounted_token": PAD},
    "uncounted token, learned positions": {"uncounted_token": PAD, "norm_first": True},
    "bias of the logits": {"head_bias": True},
}


def made(models, given, **options):
    """A model with these options."""
    fields = {"max_len": 9, "activation": "relu", **given}
    if "embedding_position" in fields:
        fields["embedding_position"] = models.Part(*fields["embedding_position"])
    stacks = models.StackConfig(2, HEADS, 6), models.StackConfig(2, HEADS, 5)
    config = models.EncoderDecoderConfig(VOCAB, DIM, *stacks, first_position=FIRST, **fields)
    return models.EncoderDecoder(config, **options)


class Reference:
    """The logits of an encoder-decoder, in NumPy."""

    def __init__(self, weights, given):
        self.weights = weights
        self.given = {"norm_first": False, "embedding_norm": True, "embed_scale": 1.0, **given}

    def linear(self, name, x):
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def norm(self, name, x):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def attention(self, name, x, memory, mask):
        split = [
            self.linear(f"{name}.{each}_proj", y) for each, y in (("q", x), ("k", memory), ("v", memory))
        ]
        q, k, v = (y.reshape(*y.shape[:2], HEADS, -1).swapaxes(1, 2) for y in split)
        scores = np.where(mask, q @ k.swapaxes(-1, -2) / math.sqrt(DIM / HEADS), -np.inf)
        shares = np.exp(scores - scores.max(-1, keepdims=True))
        heads = (shares / shares.sum(-1, keepdims=True)) @ v
        return self.linear(f"{name}.out_proj", heads.swapaxes(1, 2).reshape(*x.shape))

    def sublayer(self, norm, x, f):
        if self.given["norm_first"]:
            return x + f(self.norm(norm, x))
        return self.norm(norm, x + f(x))

    def ffn(self, name):
        return lambda x: self.linear(f"{name}.down_proj", np.maximum(self.linear(f"{name}.up_proj", x), 0.0))

    def places(self, tokens):
        real = np.ones_like(tokens, bool)
        if "uncounted_token" in self.given:
            real = tokens != self.given["uncounted_token"]
        return real, np.maximum(real.cumsum(-1) - 1, 0) + FIRST

    def embed(self, stack, tokens):
        x, norm = self.weights["token_embedding.weight"][tokens], f"{stack}_embedding_norm"
        real, places = self.places(tokens)
        if "embedding_position" in self.given:
            angles = places[..., None] * 10000.0 ** (-2 * np.arange(DIM // 2) / DIM)
            added = np.concatenate((np.sin(angles), np.cos(angles)), -1)
        else:
            added = self.weights[f"{stack}_position_embedding.weight"][places]
        added = np.where(real[..., None], added, 0.0)
        if stack == "decoder" and self.given.get("decoder_positions_last"):
            return self.norm(norm, x) + added
        x = x * self.given["embed_scale"] + added
        return self.norm(norm, x) if self.given["embedding_norm"] else x

    def logits(self, source, target, there):
        x, keys = self.embed("encoder", source), there[:, None, None]
        for name in ("encoder_layers.0", "encoder_layers.1"):
            x = self.sublayer(
                f"{name}.attention_norm",
                x,
                lambda y, name=name: self.attention(f"{name}.attention", y, y, keys),
            )
            x = self.sublayer(f"{name}.ffn_norm", x, self.ffn(f"{name}.ffn"))
        memory = self.norm("encoder_norm", x) if self.given["norm_first"] else x
        causal = np.tri(target.shape[1], dtype=bool)
        x = self.embed("decoder", target)
        for name in ("decoder_layers.0", "decoder_layers.1"):
            x = self.sublayer(
                f"{name}.self_norm",
                x,
                lambda y, name=name: self.attention(f"{name}.self_attention", y, y, causal),
            )
            x = self.sublayer(
                f"{name}.cross_norm",
                x,
                lambda y, name=name: self.attention(f"{name}.cross_attention", y, memory, keys),
            )
            x = self.sublayer(f"{name}.ffn_norm", x, self.ffn(f"{name}.ffn"))
        x = self.norm("decoder_norm", x) if self.given["norm_first"] else x
        return x @ self.weights["token_embedding.weight"].T + self.weights.get("head_bias", 0.0)


@pytest.fixture(params=OPTIONS)
def case(request):
    """Options, a model in both mirrors with the same random weights, and the weights."""
    given = OPTIONS[request.param]
    generator = torch.Generator().manual_seed(3)
    model = made(torch_models, given).eval()
    with torch.no_grad():
        for x in model.parameters():
            x.normal_(std=0.5, generator=generator)
    weights = {name: x.double().numpy() for name, x in model.state_dict().items()}
    return given, {"torch": model, "jax": transfer(model, made(jax_models, given, rngs=nnx.Rngs(0)))}, weights


@pytest.mark.parametrize("mirror", MIRRORS)
def test_logits_equal_the_reference_at_once_and_step_by_step(case, mirror):
    given, models, weights = case
    model, array = models[mirror], MIRRORS[mirror].array
    there = np.ones_like(SOURCE, bool)
    there[0, 3:] = False
    expected = Reference(weights, given).logits(SOURCE, TARGET, there)
    whole = program(model, lambda model, *given: model(*given).logits)
    found = np.array(whole(array(SOURCE), array(TARGET), array(there)).tolist())
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    if "uncounted_token" in given:  # a step counts every token of the cache, as M2M-100 does
        return
    memory = program(model, lambda model, *given: model.encode(*given).output)(array(SOURCE), array(there))
    caches, step = model.start(TARGET.shape[1]), program(model, write_on)
    for n in range(TARGET.shape[1]):
        logits, caches = step(array(TARGET[:, n : n + 1]), memory, array(there), caches)
        found = np.array(logits.tolist())[:, 0]
        np.testing.assert_allclose(found, expected[:, n], atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("models", [torch_models, jax_models], ids=["torch", "jax"])
def test_layers_with_their_own_relative_positions_equal_layers_that_share_them(models):
    """With the same table in every layer, UMT5's layers give the outputs of T5's."""
    sizes = (VOCAB, DIM, HEADS, 5, 2, 2, 6)
    options = {} if models is torch_models else {"rngs": nnx.Rngs(0)}
    shared, own = (
        models.RelativeEncoderDecoder(
            models.RelativeEncoderDecoderConfig(*sizes, num_buckets=8, shared_position=shares), **options
        )
        for shares in (True, False)
    )
    array = (MIRRORS["torch"] if models is torch_models else MIRRORS["jax"]).array
    if models is torch_models:
        weights = dict(shared.state_dict())
        for stack in ("encoder", "decoder"):
            table = weights.pop(f"{stack}_position.bias_embedding.weight")
            for n in range(2):
                weights[f"{stack}_layers.{n}.self_attention.position.bias_embedding.weight"] = table
        own.load_state_dict(weights)
    else:
        weights = dict(nnx.to_flat_state(nnx.state(shared, nnx.Param)))
        filled = [
            (
                path,
                weights[(f"{path[0].partition('_')[0]}_position", *path[-2:])]
                if "position" in path
                else weights[path],
            )
            for path, _ in nnx.to_flat_state(nnx.state(own, nnx.Param))
        ]
        nnx.update(own, nnx.from_flat_state(filled))
    found, expected = (
        np.array(model(array(SOURCE), array(TARGET)).logits.tolist()) for model in (own, shared)
    )
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
