"""The PyTorch half of the demonstration; `in_jax` does the same in JAX."""

import torch

from attention_bridge.demo.checkpoint import SentenceEncoder
from attention_bridge.demo.encoded import Encoded
from attention_bridge.demo.tokens import Batch
from attention_bridge.pretrained.load import make_model
from torch_attention.masks import length_mask
from torch_attention.models import Encoder
from torch_attention.outputs import EncoderOutput


def build(encoder: SentenceEncoder) -> Encoder:
    """Build the encoder with the checkpoint's weights in PyTorch."""
    model: Encoder = make_model(encoder.pretrained, "torch")
    return model


def encode(model: Encoder, batch: Batch) -> Encoded:
    """Encode the sentences."""
    tokens, lengths = torch.from_numpy(batch.tokens), torch.from_numpy(batch.lengths)
    result, embeddings = _encode(model, tokens, lengths)
    return Encoded(embeddings.numpy(), tuple(weights.numpy() for weights in result.weights or ()))


@torch.inference_mode()
def _encode(
    model: Encoder, tokens: torch.Tensor, lengths: torch.Tensor
) -> tuple[EncoderOutput, torch.Tensor]:
    mask = length_mask(lengths, tokens.shape[1])  # batch 1 1 length
    result = model(tokens, mask, need_weights=True)
    real = mask[:, 0, 0, :, None]  # batch length 1
    mean = (result.output * real).sum(1) / real.sum(1)  # batch embed
    return result, mean / torch.linalg.norm(mean, dim=-1, keepdim=True)
