"""What all encoder-decoders have in common: one sequence is read, another is written (Vaswani et al. 2017)."""

from typing import Any

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.caches import Cache, StaticCache
from jax_attention.checks import check_padding_mask, check_pairs, check_tokens
from jax_attention.outputs import CachedDecoderOutput, EncoderOutput, SequenceOutput, all_weights


class SequenceToSequence(nnx.Module):
    """An encoder and a decoder; the base of everything that translates (Sutskever, Vinyals & Le 2014)."""

    config: Any
    decoder_layers: Any

    @property
    def max_target_len(self) -> int | None:
        """How many tokens can be written; None where there is no end."""
        return getattr(self.config, "max_len", None)

    @property
    def num_source_tokens(self) -> int | None:
        """Number of tokens of the source's vocabulary; None where it is not known."""
        return getattr(self.config, "vocab_size", None)

    @checked
    def run(
        self,
        source: Shaped[Array, "batch source ..."],
        target: Int[Array, "batch target"],
        source_mask: Shaped[Array, "..."] | None = None,
        target_mask: Shaped[Array, "..."] | None = None,
        *,
        need_weights: bool = True,
    ) -> SequenceOutput:
        """Read `source` and score every token as the one that comes next, behind each token of `target`.

        Args:
            source: tokens `(batch, source)`, or frames `(batch, frames, features)` of sound.
            target: tokens written so far, below `vocab_size`.
            source_mask: True or 1 at real tokens or frames, False or 0 at padding, `(batch, source)` or
                `(batch, frames)`; None for no padding.
            target_mask: True where a token attends to an earlier one; `(batch, target)` marks real tokens.
            need_weights: whether to return the weights of every layer.

        Returns:
            Logits `(batch, target, vocab_size)`, and tuples of weights, one a layer, or None.

        Raises:
            TypeError: a mask that is not boolean.
            ValueError: shapes that do not fit, or a position that has no embedding.
        """
        read = self.encode(source, source_mask, need_weights=need_weights)
        written = self.decode(target, read.output, target_mask, source_mask, need_weights=need_weights)
        return written._replace(encoder_weights=read.weights)

    @checked
    def encode(
        self,
        source: Shaped[Array, "batch source ..."],
        source_mask: Shaped[Array, "..."] | None = None,
        *,
        need_weights: bool = False,
    ) -> EncoderOutput:
        """Encode `source`; arguments as in a call of the model."""
        raise NotImplementedError

    @checked
    def decode(
        self,
        target: Int[Array, "batch target"],
        memory: Float[Array, "batch source embed"],
        target_mask: Shaped[Array, "..."] | None = None,
        source_mask: Shaped[Array, "..."] | None = None,
        *,
        caches: tuple[Cache, ...] | None = None,
        need_weights: bool = False,
    ) -> SequenceOutput:
        """Score every token as the next one behind each token of `target`; other arguments as in a call of the model.

        Args:
            target: tokens written so far; with `caches` the new ones alone.
            memory: output of `encode`.
            caches: KV cache of each layer, for incremental decoding; `start` makes empty ones.
        """
        raise NotImplementedError

    @checked
    def start(self, length: int) -> tuple[Any, ...]:
        """Empty KV caches for incremental decoding, with room for `length` tokens.

        Compiled code (`jax.jit`, `torch.compile`) cannot refuse more tokens: these overwrite the last slots without
        an error.
        """
        return (StaticCache(length),) * len(self.decoder_layers)


@checked
class SequenceModel(SequenceToSequence):
    """The base of the families in this package, which return all there is (Vaswani et al. 2017)."""

    def __call__(
        self,
        source: Shaped[Array, "batch source ..."],
        target: Int[Array, "batch target"],
        source_mask: Shaped[Array, "..."] | None = None,
        target_mask: Shaped[Array, "..."] | None = None,
        *,
        need_weights: bool = False,
    ) -> SequenceOutput:
        """Read `source` and score every token as the next one, behind each token of `target`.

        Args:
            source: tokens `(batch, source)`, or frames `(batch, frames, features)` of sound.
            target: tokens written so far, below `vocab_size`.
            source_mask: True or 1 at real tokens or frames, False or 0 at padding, `(batch, source)` or
                `(batch, frames)`; None for no padding.
            target_mask: True where a token attends to an earlier one; `(batch, target)` marks real tokens.
            need_weights: whether to return the attention weights of every layer; `run` returns them by default.

        Returns:
            Logits `(batch, target, vocab_size)`, and tuples of weights, one for each layer, or None.

        Raises:
            TypeError: a mask that holds something else than truth values or 0 and 1.
            ValueError: shapes that do not fit, or a position that has no embedding.
        """
        return self.run(source, target, source_mask, target_mask, need_weights=need_weights)


def check_decoding(
    target: Int[Array, "batch target"],
    target_mask: Bool[Array, "..."] | None,
    caches: tuple[Cache, ...] | None,
    num_layers: int,
    num_heads: int,
    *,
    names: tuple[str, str] = ("tokens", "target_mask"),
) -> None:
    """Raise unless tokens, their mask and the caches fit each other; `names` is what messages call the first two."""
    tokens_name, mask_name = names
    check_tokens(target, tokens_name)
    if caches is None:
        check_pairs(target, target, target_mask, num_heads=num_heads, name=mask_name)
        return
    if len(caches) != num_layers:
        raise ValueError(f"caches must be one for each of {num_layers} layers, got {len(caches)}")
    check_padding_mask(target_mask, *target.shape, name=mask_name)


@checked
def sequence_output(logits: Float[Array, "batch target vocab"], layers: list[Any]) -> SequenceOutput:
    """What a decoder returns, from what its layers did."""
    caches = tuple(layer.cache for layer in layers if isinstance(layer, CachedDecoderOutput)) or None
    itself = all_weights(layer.self_weights for layer in layers)
    return SequenceOutput(logits, caches, None, itself, all_weights(layer.cross_weights for layer in layers))
