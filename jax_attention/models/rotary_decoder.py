r"""A decoder of Llama's shape: RMS norms, rotary positions, gated feed-forward (Touvron et al. 2023).

$$ x \leftarrow x + \mathrm{attention}(\mathrm{norm}(x)), \qquad
   x \leftarrow x + W_d \left(\sigma(W_g\, n) \odot W_u\, n\right), \; n = \mathrm{norm}(x) $$

One change from `Decoder` in every part: norms do not centre, positions turn queries and keys, a gate stands in the
feed-forward network. The families differ in what their configuration says:

| family       | what it has besides                                                                           |
|--------------|-----------------------------------------------------------------------------------------------|
| Llama, Mistral | `num_kv_heads`; Mistral `windows`; Llama 3.1 other frequencies in `rope`                      |
| Qwen 2, 3    | 2: `qkv_bias`; 3: `qk_norm`                                                                   |
| Gemma        | `unit_offset` norms, `embed_scale` sqrt(embed_dim), `activation` `"gelu_tanh"`                |
| Gemma 2      | and `sandwich` norms, `windows` in every other layer, `softcap`, `logit_softcap`, `scale`     |
| Gemma 3      | and `qk_norm`, `local_rope` in layers with a window, no softcaps                              |
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float, Int

from jax_attention.arguments import checked
from jax_attention.caches import Cache
from jax_attention.feed_forward import GatedFeedForward
from jax_attention.layers import Factory, embedding, linear, normalise, rms_norm
from jax_attention.models.attention import HeadsConfig, ModelAttention, RopeConfig
from jax_attention.models.language import LanguageModel, bounded
from jax_attention.outputs import AttentionOutput, CachedOutput
from jax_attention.positions.rotary import RotaryEmbedding


@checked
@dataclass(frozen=True)
class RotaryDecoderConfig:
    """The sizes of a decoder with rotary positions, and what its family adds.

    Attributes:
        vocab_size: number of tokens.
        num_layers: number of layers.
        ffn_dim: features inside the feed-forward network.
        heads: of each layer's attention; its `embed_dim`, its `norm_eps` and its `unit_offset` are the model's.
        rope: how positions turn queries and keys.
        activation: of the gate.
        ffn_bias: whether the feed-forward maps have biases.
        sandwich: whether what a sublayer returns is normalised too, before it is added.
        windows: how many keys each layer sees at most, None for all; one a layer, or empty for all layers.
        local_rope: how they do in layers with a window, if otherwise.
        embed_scale: factor on the embeddings.
        logit_softcap: what no logit reaches; None leaves them unbounded.
        tied: whether logits come from the embeddings again, instead of a head.
    """

    vocab_size: int
    num_layers: int
    ffn_dim: int
    heads: HeadsConfig
    rope: RopeConfig
    activation: str = "silu"
    ffn_bias: bool = False
    sandwich: bool = False
    windows: tuple[int | None, ...] = ()
    local_rope: RopeConfig | None = None
    embed_scale: float = 1.0
    logit_softcap: float | None = None
    tied: bool = False

    @property
    def num_heads(self) -> int:
        """Heads of the weights."""
        return self.heads.num_heads

    def position(self, window: int | None) -> RotaryEmbedding:
        """What turns the queries and keys of a layer with such a window."""
        rope = self.rope if window is None or self.local_rope is None else self.local_rope
        return rope.embedding(self.heads.head_dim)


@checked
class RotaryDecoderLayer(nnx.Module):
    """Causal self-attention, then a gated feed-forward network: x = x + f(norm(x)) each (Touvron et al. 2023).

    Args:
        config: the sizes.
        window: how many keys a query sees at most; None for all.

    Raises:
        ValueError: heads that do not divide, or an unknown activation.
    """

    def __init__(
        self,
        config: RotaryDecoderConfig,
        window: int | None = None,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        heads = config.heads
        dim, eps, offset = heads.embed_dim, heads.norm_eps, heads.unit_offset
        self.attention_norm = rms_norm(dim, eps=eps, unit_offset=offset, **factory)
        self.attention = ModelAttention(config.heads, window=window, **factory)
        self.ffn_norm = rms_norm(dim, eps=eps, unit_offset=offset, **factory)
        self.ffn = GatedFeedForward(
            dim, config.ffn_dim, activation=config.activation, bias=config.ffn_bias, **factory
        )
        self.sandwich = config.sandwich
        if config.sandwich:
            self.attention_output_norm = rms_norm(dim, eps=eps, unit_offset=offset, **factory)
            self.ffn_output_norm = rms_norm(dim, eps=eps, unit_offset=offset, **factory)
        self.position = config.position(window)

    def __call__(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None = None,
        *,
        positions: Int[Array, "..."] | None = None,
        cache: Cache | None = None,
        need_weights: bool = True,
    ) -> AttentionOutput | CachedOutput:
        """Decode one layer; arguments, result and errors as in `ModelAttention`."""
        attended = self.attention(
            normalise(self.attention_norm, x),
            mask,
            position=self.position,
            positions=positions,
            cache=cache,
            need_weights=need_weights,
        )
        change = normalise(self.attention_output_norm, attended.output) if self.sandwich else attended.output
        x = x + change  # batch length embed
        change = self.ffn(normalise(self.ffn_norm, x))  # batch length embed
        x = x + (normalise(self.ffn_output_norm, change) if self.sandwich else change)  # batch length embed
        return attended._replace(output=x)


@checked
class RotaryDecoder(LanguageModel):
    """Tokens in, for each of them a score of every token as the next one out (Touvron et al. 2023).

    Args:
        config: the sizes.

    Raises:
        ValueError: heads that do not divide, windows that are not one a layer, or an unknown activation.
    """

    def __init__(
        self,
        config: RotaryDecoderConfig,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        windows = config.windows or (None,) * config.num_layers
        if len(windows) != config.num_layers:
            raise ValueError(
                f"windows must be one for each of {config.num_layers} layers, got {len(windows)}"
            )
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        heads, dim = config.heads, config.heads.embed_dim
        self.config = config
        self.token_embedding = embedding(config.vocab_size, dim, **factory)
        self.layers = nnx.List([RotaryDecoderLayer(config, window, **factory) for window in windows])
        self.final_norm = rms_norm(dim, eps=heads.norm_eps, unit_offset=heads.unit_offset, **factory)
        self.head = None if config.tied else linear(dim, config.vocab_size, bias=False, **factory)

    @checked
    def embed(self, tokens: Int[Array, "batch length"]) -> Float[Array, "batch length embed"]:
        """The vectors that the first layer reads."""
        return super().embed(tokens) * self.config.embed_scale

    @checked
    def logits(self, x: Float[Array, "*batch embed"]) -> Float[Array, "*batch vocab"]:
        """The score of each token as the next one behind what `x` stands for."""
        return bounded(super().logits(x), self.config.logit_softcap)
