"""The reference: sentence-transformers on the same directory, with its own tokeniser, model and pooling."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers.utils import logging

from attention_bridge.demo.checkpoint import SentenceEncoder
from attention_bridge.demo.encoded import Encoded
from attention_bridge.demo.tokens import Batch
from attention_bridge.errors import CheckpointError


def encode(encoder: SentenceEncoder, texts: Sequence[str], batch: Batch) -> Encoded:
    """Encode the texts; the attention weights come from the inner transformer, run on the batch's tokens."""
    with _without_progress_bars():
        model = _read(encoder)
    embeddings = model.encode(list(texts), prompt="", normalize_embeddings=True, show_progress_bar=False)

    transformer: Any = model[0].auto_model
    tokens, real = torch.from_numpy(batch.tokens).long(), torch.from_numpy(batch.real).long()
    with torch.inference_mode():
        result = transformer(input_ids=tokens, attention_mask=real, output_attentions=True)
    return Encoded(np.asarray(embeddings), tuple(weights.numpy() for weights in result.attentions))


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Disable progress bars; environment variables would act only before the library is imported."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _read(encoder: SentenceEncoder) -> SentenceTransformer:
    """Load the directory with sentence-transformers, which adds mean pooling to a plain encoder."""
    try:
        model = SentenceTransformer(
            str(encoder.directory),
            device="cpu",
            local_files_only=True,
            model_kwargs={"attn_implementation": "eager"},
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"sentence-transformers, the reference, cannot read {encoder.directory}: {reason}"
        ) from error
    model.max_seq_length = encoder.max_tokens
    return model.float()
