"""Base classes of the encoder-decoders (Vaswani et al. 2017)."""

from typing import Any

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int, Shaped

from jax_attention.arguments import checked
from jax_attention.caches import Cache, StaticCache
from jax_attention.checks import check_padding_mask, check_pairs, check_tokens
from jax_attention.outputs import CachedDecoderOutput, EncoderOutput, SequenceOutput, all_weights


class SequenceToSequence(nnx.Module):
    """Base class of models with an encoder and a decoder (Sutskever, Vinyals & Le 2014)."""

    config: Any
    decoder_layers: Any

    @property
    def max_target_len(self) -> int | None:
        """Maximum length of the target; None for no limit."""
        return getattr(self.config, "max_len", None)

    @property
    def num_source_tokens(self) -> int | None:
        """Size of the source vocabulary; None if unknown."""
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
        """Encode `source` and compute the logits of the next token after each token of `target`.

        Args:
            source: token ids `(batch, source)`, or audio frames `(batch, frames, features)`.
            target: token ids generated so far, below `vocab_size`.
            source_mask: boolean or 0/1 mask, True or 1 at real tokens or frames, `(batch, source)` or
                `(batch, frames)`; None for no padding.
            target_mask: boolean mask, True where a query may attend to a key, combined with the causal mask; or
                `(batch, target)`, True at real tokens; None for no mask.
            need_weights: whether to return the attention weights of every layer.

        Returns:
            Logits `(batch, target, vocab_size)`, and tuples with the attention weights of each layer, or None.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match, or a position has no embedding.
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
        """Encode `source`; arguments as in the model's call."""
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
        """Compute the logits of the next token after each token of `target`; other arguments as in `run`.

        Args:
            target: token ids generated so far; with `caches`, only the new ones.
            memory: output of `encode`.
            caches: KV cache of each layer, for incremental decoding; `start` returns empty ones; None without caches.
        """
        raise NotImplementedError

    @checked
    def start(self, length: int) -> tuple[Any, ...]:
        """Empty KV caches for incremental decoding of `length` tokens.

        Compiled code (`jax.jit`, `torch.compile`) cannot raise an error for more tokens: they overwrite the last slots.
        """
        return (StaticCache(length),) * len(self.decoder_layers)


@checked
class SequenceModel(SequenceToSequence):
    """Base class of encoder-decoders whose call returns a `SequenceOutput` (Vaswani et al. 2017)."""

    def __call__(
        self,
        source: Shaped[Array, "batch source ..."],
        target: Int[Array, "batch target"],
        source_mask: Shaped[Array, "..."] | None = None,
        target_mask: Shaped[Array, "..."] | None = None,
        *,
        need_weights: bool = False,
    ) -> SequenceOutput:
        """Encode `source` and compute the logits of the next token after each token of `target`.

        Args:
            source: token ids `(batch, source)`, or audio frames `(batch, frames, features)`.
            target: token ids generated so far, below `vocab_size`.
            source_mask: boolean or 0/1 mask, True or 1 at real tokens or frames, `(batch, source)` or
                `(batch, frames)`; None for no padding.
            target_mask: boolean mask, True where a query may attend to a key, combined with the causal mask; or
                `(batch, target)`, True at real tokens; None for no mask.
            need_weights: whether to return the attention weights of every layer; `run` returns them by default.

        Returns:
            Logits `(batch, target, vocab_size)`, and tuples with the attention weights of each layer, or None.

        Raises:
            TypeError: a mask is neither boolean nor 0/1.
            ValueError: shapes do not match, or a position has no embedding.
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
    """Raise unless tokens, mask and caches fit each other; error messages call the first two by `names`."""
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
    """The output of a decoder, from its logits and the outputs of its layers."""
    caches = tuple(layer.cache for layer in layers if isinstance(layer, CachedDecoderOutput)) or None
    itself = all_weights(layer.self_weights for layer in layers)
    return SequenceOutput(logits, caches, None, itself, all_weights(layer.cross_weights for layer in layers))
