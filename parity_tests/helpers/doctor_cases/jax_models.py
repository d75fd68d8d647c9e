"""The small ports in JAX, each with mistakes by the place where they are."""

import math

import jax.numpy as jnp
import numpy as np
from flax import nnx

from parity_tests.helpers.doctor_cases.jax_parts import Attention, FeedForward, norm
from parity_tests.helpers.doctor_cases.positions import buckets
from parity_tests.helpers.doctor_cases.shape import BUCKETS, LENGTH, PAD, VOCABULARY, Shape

NUMBERED = ("layer", "attention", "cross", "mlp", "norm")  # places in one layer, or in every layer


class Layer(nnx.Module):
    def __init__(self, shape: Shape, rngs, faults, *, cross=False):
        self._shape, self._fault = shape, faults.get("layer")
        self.attention_norm = norm(shape, shape.embed, faults.get("norm"))
        self.attention = Attention(shape, rngs, faults.get("attention"))
        if cross:
            self.cross_norm = norm(shape, shape.embed)
            self.cross_attention = Attention(shape, rngs, faults.get("cross"), cross=True)
        self.mlp_norm, self.mlp = norm(shape, shape.embed), FeedForward(shape, rngs, faults.get("mlp"))

    def __call__(self, x, mask=None, bias=None, past=None, memory=None, memory_mask=None):
        order = self._fault if self._fault in ("pre", "post", "parallel") else self._shape.order
        if order == "post":
            made, *kept = self.attention(x, mask=mask, bias=bias, past=past)
            x = self.attention_norm(x + made)
            return self.mlp_norm(x + self.mlp(x)), *kept
        made, *kept = self.attention(self.attention_norm(x), mask=mask, bias=bias, past=past)
        if order == "parallel":
            return x + made + self.mlp(self.mlp_norm(x)), *kept
        x = x + made
        if memory is not None:
            x = x + self.cross_attention(self.cross_norm(x), memory=memory, mask=memory_mask)[0]
        return x + self.mlp(x if self._fault == "norm skipped" else self.mlp_norm(x)), *kept


class Stack(nnx.Module):
    def __init__(self, shape: Shape, rngs, faults, place=None, *, cross=False):
        self._shape, self._fault = shape, faults.get("stack")
        if shape.buckets:
            self.relative_bias = nnx.Embed(BUCKETS, shape.heads, rngs=rngs)
        self.layers = nnx.List(
            [
                Layer(shape, rngs, faults if place in (None, number) else {}, cross=cross)
                for number in range(shape.layers)
            ]
        )
        self.norm = norm(shape, shape.embed, faults.get("last"))

    def __call__(self, x, mask=None, memory=None, memory_mask=None, caches=None):
        bias = None
        if self._shape.buckets:
            two_sided = (not self._shape.causal) != (self._fault == "sides")
            index = buckets(x.shape[1], x.shape[1], two_sided=two_sided)
            bias = self.relative_bias(jnp.asarray(index)).transpose(2, 0, 1)[None]
        made = []
        for number, layer in enumerate(self.layers):
            past = None if caches is None else caches[number]
            lost = self._fault == "bias of the first" and number
            x, *kept = layer(x, mask, None if lost else bias, past, memory, memory_mask)
            made.append(tuple(kept))
        return self.norm(x), made


def given(seen, kind, x, fault=None):
    """A padding mask as the layers take it."""
    if seen is None or fault == "mask missing":
        return None
    seen = ~seen if fault == "mask inverted" else jnp.roll(seen, 1, 0) if fault == "mask of another" else seen
    seen = seen[:, None, None, :]
    return seen if kind == "boolean" else (~seen).astype(x.dtype) * jnp.finfo(x.dtype).min


class Model(nnx.Module):
    """A decoder or an encoder; `place` is the number of the layer with the mistakes in its parts, None for all."""

    def __init__(self, shape: Shape, rngs, place=1, **faults):
        self._shape, self._fault = shape, faults.get("model")
        self.embed = nnx.Embed(VOCABULARY, shape.embed, rngs=rngs)
        if shape.positions:
            self.positions = nnx.Embed(LENGTH + 4, shape.embed, rngs=rngs)
        self.model = Stack(shape, rngs, faults, place)
        if not shape.tied or self._fault == "untied":
            self.head = nnx.Linear(shape.embed, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, tokens, seen=None, caches=None, *, use_cache=False):
        shape, fault = self._shape, self._fault
        x = self.embed(tokens)
        if shape.embed_scaled and fault != "embedding scale":
            x = x * jnp.asarray(math.sqrt(shape.embed), x.dtype)
        if shape.positions == "padding" and fault != "padding counted":
            real = (tokens != PAD).astype(int)
            x = x + self.positions(real.cumsum(1) * real + PAD)
        elif shape.positions == "padding":
            x = x + self.positions(jnp.broadcast_to(jnp.arange(tokens.shape[1]) + PAD + 1, tokens.shape))
        elif shape.positions:
            first = 2 if shape.positions == "offset" and fault != "offset" else 0
            x = x + self.positions(jnp.arange(first, first + tokens.shape[1])[None])
        x, made = self.model(x, given(seen, shape.mask, x, fault), caches=caches)
        logits = self.head(x) if hasattr(self, "head") and fault != "tied" else self.embed.attend(x)
        if shape.cap and fault != "no cap":
            logits = shape.cap * jnp.tanh(logits / shape.cap)
        return (logits, made) if use_cache else logits


class EncoderDecoder(nnx.Module):
    """An encoder with a decoder; faults of the encoder have names that begin with `encoder_`."""

    def __init__(self, encoder: Shape, decoder: Shape, rngs, place=1, **faults):
        self._shape, self._fault = decoder, faults.get("model")
        self.embed = nnx.Embed(VOCABULARY, decoder.embed, rngs=rngs)
        first = {
            name.removeprefix("encoder_"): each for name, each in faults.items() if name.startswith("enc")
        }
        self.encoder = Stack(encoder, rngs, first, place)
        self.decoder = Stack(decoder, rngs, faults, place, cross=True)
        self.head = nnx.Linear(decoder.embed, VOCABULARY, use_bias=False, rngs=rngs)

    def __call__(self, source, target, seen=None):
        x, y = self.embed(source), self.embed(target)
        if self._shape.embed_scaled and self._fault != "embedding scale":
            factor = jnp.asarray(np.sqrt(self._shape.embed), x.dtype)
            x, y = x * factor, y * factor
        mask = given(seen, self._shape.mask, x)
        memory, _ = self.encoder(x, mask)
        return self.head(self.decoder(y, None, memory, mask)[0])
