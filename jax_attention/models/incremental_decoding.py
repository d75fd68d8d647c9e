"""Incremental decoding of any generative model: prefill with the prompt, then one decode step per token.

A decoder continues a prompt. An encoder-decoder encodes a source and generates a target from its start tokens.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arrays import is_integer, stable_order
from jax_attention.caches import select_rows
from jax_attention.checks import check_padding_mask, check_positive, check_tokens
from jax_attention.models.decoder import Decoder
from jax_attention.models.evaluation import capacity_for
from jax_attention.models.language import LanguageModel
from jax_attention.models.sequence import SequenceToSequence
from jax_attention.models.special_tokens import check_within, special_tokens
from jax_attention.models.token_masks import token_mask
from jax_attention.models.token_mixers import check_no_padding
from jax_attention.models.token_numbers import check_numbers
from jax_attention.models.token_positions import has_absolute_positions
from jax_attention.ops import at_least_float32
from jax_attention.ops.arrays import known_values

Writer = Decoder | LanguageModel | SequenceToSequence


class Written(NamedTuple):
    """Decoding state of a model between two tokens.

    Attributes:
        caches: KV caches and recurrent states of the layers.
        position: position of the next token; None for an encoder-decoder.
        memory: output of the encoder; None for a decoder.
        memory_mask: mask of the source; None for no padding.
    """

    caches: tuple[Any, ...]
    position: Int[Array, "rows 1"] | None
    memory: Float[Array, "rows source embed"] | None
    memory_mask: Bool[Array, "..."] | None


def prompt_mask(
    model: Writer, inputs: Shaped[Array, "batch ..."], mask: Shaped[Array, "..."] | None, eos: Sequence[int]
) -> Shaped[Array, "..."] | None:
    """The mask of a prompt or source, `(batch, 1, 1, length)` for tokens.

    Without a mask, tokens equal to the configuration's padding token are padding, unless it is also an end token.
    """
    if not is_integer(inputs) or inputs.ndim != 2:
        return mask
    if mask is not None:
        return token_mask(mask, inputs.shape)
    pad = special_tokens(model).pad
    if pad is None or pad in eos:
        return None
    known = known_values(inputs)
    return None if known is not None and not (known == pad).any() else (inputs != pad)[:, None, None]


def check_request(
    model: Writer,
    inputs: Shaped[Array, "batch ..."],
    num_tokens: int,
    mask: Shaped[Array, "..."] | None,
    start: Sequence[int],
) -> None:
    """Raise unless the model can generate `num_tokens` tokens, at least one, from these inputs."""
    check_positive(num_tokens=num_tokens)
    if isinstance(model, SequenceToSequence):
        room, total = model.max_target_len, len(start) - 1 + num_tokens
        if room is not None and total > room:
            raise ValueError(f"num_tokens must be at most the {room} positions of the model, got {total}")
        if is_integer(inputs) and model.num_source_tokens is not None:
            check_numbers("inputs", inputs, model.num_source_tokens)
        return
    check_tokens(inputs)
    check_numbers("inputs", inputs, model.config.vocab_size)
    check_positive(length=inputs.shape[1])
    check_padding_mask(mask, *inputs.shape)
    total, max_len = inputs.shape[1] + num_tokens, getattr(model.config, "max_len", None)
    if max_len is not None and total > max_len:
        raise ValueError(f"tokens and num_tokens must be at most max_len={max_len} together, got {total}")
    known = None if mask is None else known_values(mask)
    if known is not None and not known.any(-1).all():
        raise ValueError("mask must leave at least one token of each prompt, got a prompt of padding alone")
    if known is not None and not known.all() and isinstance(model, LanguageModel):
        check_no_padding(model.layers)


def prefill(
    model: Writer,
    inputs: Shaped[Array, "batch ..."],
    mask: Shaped[Array, "..."] | None,
    *,
    num_tokens: int,
    start: tuple[int, ...],
    eos: tuple[int, ...],
) -> tuple[Float[Array, "batch vocab"], Written]:
    """Run the model on the inputs.

    Args:
        model: model that generates.
        inputs: prompt of a decoder, or source of an encoder-decoder.
        mask: mask of the inputs.
        num_tokens: number of tokens to generate.
        start: first tokens of an encoder-decoder's target; empty for a decoder.
        eos: end tokens, which must be in the vocabulary.

    Returns:
        Logits of the first token to generate, and the decoding state.

    Raises:
        ValueError: a start or end token is outside the vocabulary.
    """
    if isinstance(model, SequenceToSequence):
        if mask is not None:
            mask = jnp.broadcast_to(mask, (inputs.shape[0], *mask.shape[1:]))  # batch ...
        if mask is not None and inputs.ndim == 2:  # padding to the end, so that it shifts no position
            inputs, mask = _ordered(inputs, mask, last=False)
        memory = model.encode(inputs, mask).output  # batch source embed
        first = jnp.asarray(start)[None]  # 1 start
        target = jnp.broadcast_to(first, (memory.shape[0], len(start)))  # batch start
        caches = model.start(len(start) - 1 + num_tokens)
        scores, written = _write(model, target, Written(caches, None, memory, mask))
        check_within("start_token", start, scores.shape[-1])
        check_within("eos_token", eos, scores.shape[-1])
        return scores, written
    length = inputs.shape[1]
    if mask is not None:  # padding to the front, so that it never separates two tokens
        inputs, mask = _ordered(inputs, mask, last=True)
    real = jnp.ones_like(inputs, dtype=jnp.bool_) if mask is None else mask[:, 0, 0]  # batch length
    count = real.cumsum(-1)  # batch length
    positions = jnp.where(real, count - 1, 0)  # batch length
    read = model.read(
        inputs,
        mask,
        positions=told(model, positions),
        caches=model.start(capacity_for(length + num_tokens)),
    )
    scores = at_least_float32(model.logits(read.last_hidden_state[:, -1]))  # batch vocab
    check_within("eos_token", eos, scores.shape[-1])
    return scores, Written(read.caches or (), count[:, -1:], None, None)


def decode(
    model: Writer, token: Int[Array, " rows"], written: Written
) -> tuple[Float[Array, "rows vocab"], Written]:
    """Run one decode step: read a token, return the logits of the next one and the new state."""
    if isinstance(model, SequenceToSequence):
        return _write(model, token[:, None], written)
    position = written.position  # rows 1
    told_position = None if position is None else told(model, position)
    read = model.read(token[:, None], positions=told_position, caches=written.caches)
    following = None if position is None else position + 1  # rows 1
    scores = at_least_float32(model.logits(read.last_hidden_state[:, -1]))  # rows vocab
    return scores, written._replace(caches=read.caches or (), position=following)


def select(written: Written, rows: Int[Array, " rows"]) -> Written:
    """Select the state of these batch rows, in this order; a row may be repeated."""
    mask = written.memory_mask
    return Written(
        tuple([select_rows(each, rows) for each in written.caches]),
        None if written.position is None else written.position[rows],
        None if written.memory is None else written.memory[rows],
        None if mask is None else mask[rows],
    )


def told(
    model: Decoder | LanguageModel, positions: Int[Array, "batch length"]
) -> Int[Array, "batch length"] | None:
    """The positions to pass to a model, or None.

    A `LanguageModel` without learned positions uses only distances, which left padding does not change.
    """
    return positions if has_absolute_positions(model.config) else None


def _ordered(
    inputs: Int[Array, "batch length"], mask: Bool[Array, "batch 1 1 length"], *, last: bool
) -> tuple[Int[Array, "batch length"], Bool[Array, "batch 1 1 length"]]:
    """Move the real tokens to the end, after the padding, or to the front, in order; return tokens and mask."""
    real = mask[:, 0, 0]  # batch length
    order = stable_order(jnp.asarray(real if last else ~real, dtype=jnp.int32))  # batch length
    inputs = jnp.take_along_axis(inputs, order, axis=-1)  # batch length
    return inputs, jnp.take_along_axis(real, order, axis=-1)[:, None, None]


def _write(
    model: SequenceToSequence, target: Int[Array, "rows new"], written: Written
) -> tuple[Float[Array, "rows vocab"], Written]:
    memory: Any = written.memory
    read = model.decode(target, memory, None, written.memory_mask, caches=written.caches)
    return at_least_float32(read.output[:, -1]), written._replace(caches=read.caches or ())
