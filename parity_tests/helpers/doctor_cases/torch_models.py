"""The small references in PyTorch: decoders, encoders, and encoders with decoders."""

import math

import torch
from torch import nn

from parity_tests.helpers.doctor_cases.positions import buckets
from parity_tests.helpers.doctor_cases.shape import BUCKETS, LENGTH, PAD, VOCABULARY, Shape
from parity_tests.helpers.doctor_cases.torch_parts import Attention, FeedForward, norm


class Layer(nn.Module):
    def __init__(self, shape: Shape, *, cross=False):
        super().__init__()
        self._shape = shape
        self.attention_norm, self.attention = norm(shape, shape.embed), Attention(shape)
        if cross:
            self.cross_norm, self.cross_attention = norm(shape, shape.embed), Attention(shape, cross=True)
        self.mlp_norm, self.mlp = norm(shape, shape.embed), FeedForward(shape)

    def forward(self, x, mask=None, bias=None, past=None, memory=None, memory_mask=None):
        order = self._shape.order
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
        return x + self.mlp(self.mlp_norm(x)), *kept


class Stack(nn.Module):
    def __init__(self, shape: Shape, *, cross=False):
        super().__init__()
        self._shape = shape
        if shape.buckets:
            self.relative_bias = nn.Embedding(BUCKETS, shape.heads)
        self.layers = nn.ModuleList(Layer(shape, cross=cross) for _ in range(shape.layers))
        self.norm = norm(shape, shape.embed)

    def forward(self, x, mask=None, memory=None, memory_mask=None, caches=None):
        bias = None
        if self._shape.buckets:
            index = buckets(x.shape[1], x.shape[1], two_sided=not self._shape.causal)
            bias = self.relative_bias(torch.from_numpy(index)).permute(2, 0, 1)[None]
        made = []
        for number, layer in enumerate(self.layers):
            past = None if caches is None else caches[number]
            x, *kept = layer(x, mask, bias, past, memory, memory_mask)
            made.append(tuple(kept))
        return self.norm(x), made


def given(seen, kind, x):
    """A padding mask as the layers take it."""
    if seen is None:
        return None
    seen = seen[:, None, None, :]
    return seen if kind == "boolean" else (~seen).to(x.dtype) * torch.finfo(x.dtype).min


class Model(nn.Module):
    """A decoder or an encoder with a head."""

    def __init__(self, shape: Shape):
        super().__init__()
        self._shape = shape
        self.embed = nn.Embedding(VOCABULARY, shape.embed)
        if shape.positions:
            self.positions = nn.Embedding(LENGTH + 4, shape.embed)
        self.model = Stack(shape)
        self.head = nn.Linear(shape.embed, VOCABULARY, bias=False)
        if shape.tied:
            self.head.weight = self.embed.weight

    def forward(self, tokens, seen=None, caches=None, *, use_cache=False):
        shape = self._shape
        x = self.embed(tokens)
        x = x * math.sqrt(shape.embed) if shape.embed_scaled else x
        if shape.positions == "padding":
            real = (tokens != PAD).int()
            x = x + self.positions(real.cumsum(1) * real + PAD)
        elif shape.positions:
            first = 2 if shape.positions == "offset" else 0
            x = x + self.positions(torch.arange(first, first + tokens.shape[1])[None])
        x, made = self.model(x, given(seen, shape.mask, x), caches=caches)
        logits = self.head(x)
        logits = shape.cap * torch.tanh(logits / shape.cap) if shape.cap else logits
        return (logits, made) if use_cache else logits


class EncoderDecoder(nn.Module):
    """An encoder, and a decoder that attends to it."""

    def __init__(self, encoder: Shape, decoder: Shape):
        super().__init__()
        self._shape = decoder
        self.embed = nn.Embedding(VOCABULARY, decoder.embed)
        self.encoder, self.decoder = Stack(encoder), Stack(decoder, cross=True)
        self.head = nn.Linear(decoder.embed, VOCABULARY, bias=False)

    def forward(self, source, target, seen=None):
        x, y = self.embed(source), self.embed(target)
        if self._shape.embed_scaled:
            x, y = x * math.sqrt(self._shape.embed), y * math.sqrt(self._shape.embed)
        mask = given(seen, self._shape.mask, x)
        memory, _ = self.encoder(x, mask)
        return self.head(self.decoder(y, None, memory, mask)[0])
