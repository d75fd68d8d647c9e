"""The JAX half of the demonstration; `in_torch` does the same in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from attention_bridge.demo.checkpoint import SentenceEncoder
from attention_bridge.demo.encoded import Encoded
from attention_bridge.demo.tokens import Batch
from attention_bridge.pretrained.load import make_model
from jax_attention.masks import length_mask
from jax_attention.models import Encoder
from jax_attention.outputs import EncoderOutput


def build(encoder: SentenceEncoder) -> Encoder:
    """Build the encoder with the checkpoint's weights in JAX."""
    model: Encoder = make_model(encoder.pretrained, "jax")
    return model


def encode(model: Encoder, batch: Batch) -> Encoded:
    """Encode the sentences; the model is compiled for their shape."""
    tokens, lengths = jnp.asarray(batch.tokens), jnp.asarray(batch.lengths)
    result, embeddings = _encode(model, tokens, lengths)
    return Encoded(np.asarray(embeddings), tuple(np.asarray(weights) for weights in result.weights or ()))


@nnx.jit
def _encode(model: Encoder, tokens: jax.Array, lengths: jax.Array) -> tuple[EncoderOutput, jax.Array]:
    mask = length_mask(lengths, tokens.shape[1])  # batch 1 1 length
    result = model(tokens, mask, need_weights=True)
    real = mask[:, 0, 0, :, None]  # batch length 1
    mean = (result.output * real).sum(1) / real.sum(1)  # batch embed
    return result, mean / jnp.linalg.norm(mean, axis=-1, keepdims=True)
