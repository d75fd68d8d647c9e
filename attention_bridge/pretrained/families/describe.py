"""Language models as data: the descriptions from which both mirrors build, made of what families have in common.

A description is a part `ModelSpec` of parts `LayerSpec`, whose mixers are classes of the catalogue: what a family adds
to grouped heads, such as normalised queries or a window, is the class that says so.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from attention_bridge.catalogue.part import Part


@dataclass(frozen=True)
class Heads:
    """The heads of a model's attention.

    Attributes:
        embed_dim: features of input and output.
        num_heads, num_kv_heads: heads of queries, and of keys and values.
        head_dim: features of a head.
        qkv_bias, out_bias: whether the projections have biases.
        scale: factor on the scores; None for `1 / sqrt(head_dim)`.
        softcap: c in c tanh(score / c); None leaves scores unbounded.
        qk_norm: whether queries and keys are normalised, head by head.
        norm_eps: added to the mean square in each norm.
        unit_offset: whether norms multiply by 1 + weight instead of weight.
    """

    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    qkv_bias: bool = False
    out_bias: bool = False
    scale: float | None = None
    softcap: float | None = None
    qk_norm: bool = False
    norm_eps: float = 1e-6
    unit_offset: bool = False

    def mixer(self, position: Part, window: int | None = None) -> Part:
        """The attention class of the catalogue for these heads."""
        given: dict[str, Any] = {
            "num_heads": self.num_heads,
            "num_kv_heads": self.num_kv_heads,
            "head_dim": self.head_dim,
            "bias": self.qkv_bias,
            "position": position,
        }
        if self.out_bias != self.qkv_bias:
            given["out_bias"] = self.out_bias
        if self.scale is not None:
            given["scale"] = self.scale
        if window is not None:
            given["window"] = window
        if self.softcap is not None:
            norms = {name: self.norm(self.head_dim) for name in ("q_norm", "k_norm") if self.qk_norm}
            return Part("SoftcapAttention", {**given, "softcap": self.softcap, **norms})
        if self.qk_norm:
            return Part("QKNormAttention", {**given, "eps": self.norm_eps, "unit_offset": self.unit_offset})
        return Part("GroupedQueryAttention" if window is None else "SlidingWindowAttention", given)

    def norm(self, dim: int | None = None) -> Part:
        """The RMS norm of the model, over `dim` features; None leaves `dim` to the layer that holds it."""
        sizes = {} if dim is None else {"dim": dim}
        return Part("rms_norm", {**sizes, "eps": self.norm_eps, "unit_offset": self.unit_offset})


def rotary_decoder(
    heads: Heads,
    *,
    vocab_size: int,
    num_layers: int,
    ffn_dim: int,
    rope: Part,
    activation: str = "silu",
    ffn_bias: bool = False,
    sandwich: bool = False,
    windows: Sequence[int | None] = (),
    local_rope: Part | None = None,
    embed_scale: float = 1.0,
    logit_softcap: float | None = None,
    tied: bool = False,
) -> Part:
    """A decoder of Llama's shape: RMS norms, rotary positions, gated feed-forward (Touvron et al. 2023).

    Args:
        heads: of each layer's attention.
        vocab_size: number of tokens.
        num_layers: number of layers.
        ffn_dim: features inside the feed-forward network.
        rope: rotary embedding.
        activation: of the gate.
        ffn_bias: whether the feed-forward maps have biases.
        sandwich: whether what a sublayer returns is normalised too, before it is added (Gemma 2).
        windows: how many keys each layer sees at most, None for all; one a layer, or empty for all layers.
        local_rope: rotary embedding of layers with a window (Gemma 3); None for the same as `rope`.
        embed_scale: factor on the embeddings.
        logit_softcap: what no logit reaches; None leaves them unbounded.
        tied: whether logits come from the embeddings again, instead of a head.
    """
    ffn = Part("GatedFeedForward", {"ffn_dim": ffn_dim, "activation": activation, "bias": ffn_bias})
    return model_spec(
        vocab_size,
        heads.embed_dim,
        [
            layer_spec(
                heads.mixer(rope if window is None or local_rope is None else local_rope, window),
                ffn,
                "sandwich" if sandwich else "pre",
                heads.norm(),
            )
            for window in windows or (None,) * num_layers
        ],
        norm=heads.norm(),
        embed_scale=embed_scale,
        logit_softcap=logit_softcap,
        tied=tied,
    )


def parallel_decoder(
    heads: Heads,
    *,
    vocab_size: int,
    num_layers: int,
    ffn_dim: int,
    position: Part,
    arrangement: str = "parallel",
    activation: str = "gelu",
    ffn_bias: bool = True,
    norm_eps: float = 1e-5,
    embedding_norm: bool = False,
    tied: bool = False,
) -> Part:
    """A decoder with layer norms, whose two sublayers may stand side by side (Wang & Komatsuzaki 2021).

    Args:
        heads: of each layer's attention.
        vocab_size: number of tokens.
        num_layers: number of layers.
        ffn_dim: features inside the feed-forward network.
        position: positional encoding, `RotaryEmbedding` or `ALiBi`.
        arrangement: `parallel` (GPT-NeoX), `parallel_shared_norm` (Falcon 7B), or `pre` (BLOOM).
        activation: of the feed-forward network.
        ffn_bias: whether its maps have biases.
        norm_eps: added to the variance in each normalisation.
        embedding_norm: whether the embeddings are normalised.
        tied: whether logits come from the embeddings again, instead of a head.
    """
    norm = Part("layer_norm", {"eps": norm_eps})
    ffn = Part("FeedForward", {"ffn_dim": ffn_dim, "activation": activation, "bias": ffn_bias})
    layer = layer_spec(heads.mixer(position), ffn, arrangement, norm)
    embeddings = {"embedding_norm": norm} if embedding_norm else {}
    return model_spec(vocab_size, heads.embed_dim, [layer] * num_layers, norm=norm, tied=tied, **embeddings)


def latent_decoder(
    mixer: Mapping[str, Any],
    *,
    embed_dim: int,
    vocab_size: int,
    num_layers: int,
    ffn_dim: int,
    experts: Part | None = None,
    num_dense_layers: int = 0,
    norm_eps: float = 1e-6,
    tied: bool = False,
) -> Part:
    """A decoder of DeepSeek-V3's shape: latent attention, and a mixture of experts (DeepSeek-AI 2024).

    Args:
        mixer: arguments of `MultiHeadLatentAttention`.
        embed_dim: features of a position.
        vocab_size: number of tokens.
        num_layers: number of layers.
        ffn_dim: features inside the feed-forward network of the first layers.
        experts: of the other layers; None if all layers are as the first.
        num_dense_layers: how many layers have one feed-forward network.
        norm_eps: added to the mean square in each normalisation but those of the latents.
        tied: whether logits come from the embeddings again, instead of a head.
    """
    norm = Part("rms_norm", {"eps": norm_eps})
    attention = Part("MultiHeadLatentAttention", mixer)
    dense = Part("GatedFeedForward", {"ffn_dim": ffn_dim})
    layers = [
        layer_spec(attention, dense if experts is None or n < num_dense_layers else experts, "pre", norm)
        for n in range(num_layers)
    ]
    return model_spec(vocab_size, embed_dim, layers, norm=norm, tied=tied)


def layer_spec(mixer: Part, ffn: Part | None, arrangement: str, norm: Part) -> Part:
    """One layer of a description."""
    return Part("LayerSpec", {"mixer": mixer, "ffn": ffn, "arrangement": arrangement, "norm": norm})


def model_spec(vocab_size: int, embed_dim: int, layers: Sequence[Part], **others: Any) -> Part:
    """A description."""
    sizes = {"vocab_size": vocab_size, "embed_dim": embed_dim}
    return Part("ModelSpec", {**sizes, "layers": tuple(layers), **others})


def language_model(spec: Part) -> Part:
    """The model of a description."""
    return Part("LanguageModel", {"config": spec})


def as_part(config: Any) -> Part:
    """The configuration of a mirror's model as data, with all that is within it; a part is itself."""
    if hasattr(config, "arguments"):
        name, arguments = config.name, config.arguments
    else:
        fields = dataclasses.fields(config)
        name, arguments = type(config).__name__, {each.name: getattr(config, each.name) for each in fields}
    return Part(name, {key: _as_data(value) for key, value in arguments.items()})


def _as_data(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple([_as_data(each) for each in value])
    return as_part(value) if hasattr(value, "arguments") or dataclasses.is_dataclass(value) else value
