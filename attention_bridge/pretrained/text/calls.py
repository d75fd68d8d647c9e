"""Calls that all models share, written for the models of either mirror."""

from __future__ import annotations

from typing import Any

Outputs = tuple[Any, ...]


def hidden_states(model: Any, tokens: Any, mask: Any, token_types: Any) -> Outputs:
    """The last hidden states, of an encoder-decoder its encoder's."""
    if hasattr(model, "encode"):
        return (model.encode(tokens, mask).output,)
    types = {} if token_types is None else {"token_types": token_types}
    return (getattr(model, "read", model)(tokens, mask, **types).last_hidden_state,)


def logits(model: Any, tokens: Any, mask: Any, token_types: Any) -> Outputs:
    """The logits of a model with a task head."""
    return (model(tokens, mask, token_types).logits,)


def spans(model: Any, tokens: Any, mask: Any, token_types: Any) -> Outputs:
    """The start and end scores of a model for question answering."""
    found = model(tokens, mask, token_types)
    return found.start_logits, found.end_logits


def embeddings(model: Any, tokens: Any, mask: Any, token_types: Any) -> Outputs:
    """The embeddings of a model with an embedding head."""
    return (model(tokens, mask, token_types).embeddings,)
