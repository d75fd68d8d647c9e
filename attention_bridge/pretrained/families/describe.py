"""Descriptions of language models as data, from which both mirrors build models.

A description is a part `ModelSpec` with parts `LayerSpec`, whose mixers are attention classes of the catalogue. A
family's variant of attention, such as normalised queries or a window, is a choice of this class.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from attention_bridge.catalogue.part import Part


@dataclass(frozen=True)
class Heads:
    """The attention heads of a model.

    Attributes:
        embed_dim: features of input and output.
        num_heads, num_kv_heads: number of query heads, and of key and value heads.
        head_dim: features of a head.
        qkv_bias, out_bias: whether the projections have biases.
        scale: factor on the scores; None for 1/sqrt(head_dim).
        softcap: c in c tanh(score / c); None for no softcap.
        qk_norm: whether queries and keys are normalised per head.
        norm_eps: added to the mean square in each norm.
        unit_offset: whether norms multiply by 1 + weight instead of weight.
        clip: bound of the absolute values of queries, keys and values; None for none.
        others: further arguments of `QKNormAttention`.
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
    clip: float | None = None
    others: Mapping[str, Any] = field(default_factory=dict)

    def mixer(self, position: Part | None, window: int | None = None) -> Part:
        """Describe the attention class for these heads.

        Args:
            position: positional encoding; None for none.
            window: number of visible keys, including the query's own; in an encoder, so many on each side; None for no
                limit.
        """
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
        if self.clip is not None:
            given["clip"] = self.clip
        if window is not None:
            given["window"] = window
        if self.softcap is not None:
            norms = {name: self.norm(self.head_dim) for name in ("q_norm", "k_norm") if self.qk_norm}
            return Part("SoftcapAttention", {**given, "softcap": self.softcap, **norms})
        if self.qk_norm:
            return Part(
                "QKNormAttention",
                {**given, "eps": self.norm_eps, "unit_offset": self.unit_offset, **self.others},
            )
        return Part("GroupedQueryAttention" if window is None else "SlidingWindowAttention", given)

    def norm(self, dim: int | None = None) -> Part:
        """Describe the model's RMS norm over `dim` features; None leaves `dim` to the layer that owns the norm."""
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
    is_causal: bool = True,
) -> Part:
    """Describe a decoder like Llama: RMS norms, rotary positions, gated feed-forward (Touvron et al. 2023).

    Args:
        heads: attention heads of each layer.
        vocab_size: number of tokens.
        num_layers: number of layers.
        ffn_dim: hidden features of the feed-forward network.
        rope: rotary embedding.
        activation: activation of the gate.
        ffn_bias: whether the feed-forward projections have biases.
        sandwich: whether the output of each sublayer is normalised, too, before the residual addition (Gemma 2).
        windows: window of each layer, as in `Heads.mixer`; empty for no limit in any layer.
        local_rope: rotary embedding of layers with a window (Gemma 3); None for `rope`.
        embed_scale: factor on the embeddings.
        logit_softcap: c in c tanh(logit / c); None for no softcap.
        tied: whether the output head uses the embedding matrix (tied embeddings).
        is_causal: whether each position attends only to itself and earlier positions; False for an encoder.
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
        **({} if is_causal else {"is_causal": False}),
    )


def parallel_decoder(
    heads: Heads,
    *,
    vocab_size: int,
    num_layers: int,
    ffn_dim: int,
    position: Part | None,
    arrangement: str = "parallel",
    activation: str = "gelu",
    ffn_bias: bool = True,
    norm_eps: float = 1e-5,
    norm_bias: bool = True,
    embedding_norm: bool = False,
    windows: Sequence[int | None] = (),
    **others: Any,
) -> Part:
    """Describe a decoder with layer norms, whose two sublayers may be parallel (Wang & Komatsuzaki 2021).

    Args:
        heads: attention heads of each layer.
        vocab_size: number of tokens.
        num_layers: number of layers.
        ffn_dim: hidden features of the feed-forward network.
        position: positional encoding, `RotaryEmbedding` or `ALiBi`; None for none.
        arrangement: `parallel` (GPT-NeoX), `parallel_shared_norm` (Falcon 7B), or `pre` (BLOOM).
        activation: activation of the feed-forward network.
        ffn_bias: whether the feed-forward projections have biases.
        norm_eps: added to the variance in each norm.
        norm_bias: whether the norms have biases.
        embedding_norm: whether the embeddings are normalised.
        windows: number of visible keys in each layer, None for no limit; empty for no limit in any layer.
        others: further fields of `ModelSpec`, such as `tied`.
    """
    norm = Part("layer_norm", {"eps": norm_eps} if norm_bias else {"eps": norm_eps, "bias": False})
    ffn = Part("FeedForward", {"ffn_dim": ffn_dim, "activation": activation, "bias": ffn_bias})
    layers = [
        layer_spec(heads.mixer(position, window), ffn, arrangement, norm)
        for window in windows or (None,) * num_layers
    ]
    embeddings = {"embedding_norm": norm} if embedding_norm else {}
    return model_spec(vocab_size, heads.embed_dim, layers, **{"norm": norm, **embeddings, **others})


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
    """Describe a decoder like DeepSeek-V3: latent attention and a mixture of experts (DeepSeek-AI 2024).

    Args:
        mixer: arguments of `MultiHeadLatentAttention`.
        embed_dim: features of input and output.
        vocab_size: number of tokens.
        num_layers: number of layers.
        ffn_dim: hidden features of the dense feed-forward network.
        experts: mixture of experts; None for a dense feed-forward network in all layers.
        num_dense_layers: number of first layers with a dense feed-forward network.
        norm_eps: added to the mean square in each norm, except the norms of the latents.
        tied: whether the output head uses the embedding matrix (tied embeddings).
    """
    norm = Part("rms_norm", {"eps": norm_eps})
    attention = Part("MultiHeadLatentAttention", mixer)
    dense = Part("GatedFeedForward", {"ffn_dim": ffn_dim})
    layers = [
        layer_spec(attention, dense if experts is None or n < num_dense_layers else experts, "pre", norm)
        for n in range(num_layers)
    ]
    return model_spec(vocab_size, embed_dim, layers, norm=norm, tied=tied)


def vision_layer(
    sizes: Mapping[str, Any],
    *,
    gated: bool = False,
    scaled: bool = False,
    position: Part | None = None,
    shared_position: bool = False,
    ffn_bias: bool = True,
) -> Part:
    """Describe a layer of a Vision Transformer.

    Args:
        sizes: fields of the `VisionTransformerConfig`.
        gated: whether the feed-forward network is gated.
        scaled: whether there is a LayerScale.
        position: positional encoding; None for none.
        shared_position: whether the layers share a positional encoding of the model.
        ffn_bias: whether the feed-forward projections have biases.
    """
    heads: dict[str, Any] = {"num_heads": sizes["num_heads"]} | ({"position": position} if position else {})
    mixer = Part("MultiHeadSelfAttention", heads)
    if shared_position:
        per_head = {"num_kv_heads": heads["num_heads"], "head_dim": sizes["embed_dim"] // heads["num_heads"]}
        mixer = Part("GroupedQueryAttention", {**heads, **per_head, "bias": True})
    norm = Part("layer_norm", {"eps": sizes["norm_eps"]})
    ffn = {"ffn_dim": sizes["ffn_dim"], "activation": sizes["activation"], "bias": ffn_bias}
    return layer_spec(
        mixer,
        Part("GatedFeedForward" if gated else "FeedForward", ffn),
        "sandwich" if scaled else "pre",
        norm,
        **({"output_norm": Part("layer_scale")} if scaled else {}),
    )


def layer_spec(mixer: Part | None, ffn: Part | None, arrangement: str, norm: Part, **others: Any) -> Part:
    """Describe one layer."""
    parts = {"mixer": mixer, "ffn": ffn, "arrangement": arrangement, "norm": norm}
    if others.get("residual_scale") == 1.0:
        del others["residual_scale"]
    return Part("LayerSpec", {**parts, **others})


def model_spec(vocab_size: int, embed_dim: int, layers: Sequence[Part], **others: Any) -> Part:
    """Describe a language model by its layers."""
    sizes = {"vocab_size": vocab_size, "embed_dim": embed_dim}
    return Part("ModelSpec", {**sizes, "layers": tuple(layers), **others})


def language_model(spec: Part) -> Part:
    """The `LanguageModel` of a description."""
    return Part("LanguageModel", {"config": spec})


def as_part(config: Any) -> Part:
    """Convert the configuration of a mirror's model, with all nested objects, to a `Part`."""
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
