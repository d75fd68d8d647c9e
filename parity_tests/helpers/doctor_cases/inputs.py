"""Tokens, padding masks and calls of the small models."""

import jax.numpy as jnp
import numpy as np
import torch

from parity_tests.helpers.doctor_cases.shape import BATCH, LENGTH, PAD, PREFILL, SOURCE, VOCABULARY

_RNG = np.random.default_rng(5)
TOKENS = _RNG.integers(PAD + 1, VOCABULARY, (BATCH, LENGTH))
SOURCES = _RNG.integers(PAD + 1, VOCABULARY, (BATCH, SOURCE))
SEEN = np.arange(LENGTH) < np.array([[LENGTH], [7], [4]])
SOURCE_SEEN = np.arange(SOURCE) < np.array([[5], [SOURCE], [3]])
PADDED = np.where(SEEN, TOKENS, PAD)


def torch_decoding(model, tokens):
    """Logits of a prefill and of a decode step of several tokens."""
    first, caches = model(tokens[:, :PREFILL], use_cache=True)
    return torch.cat([first, model(tokens[:, PREFILL:], caches=caches)], 1)


def jax_decoding(model, tokens):
    """The same calls as `torch_decoding`."""
    first, caches = model(tokens[:, :PREFILL], use_cache=True)
    return jnp.concatenate([first, model(tokens[:, PREFILL:], caches=caches)], 1)
