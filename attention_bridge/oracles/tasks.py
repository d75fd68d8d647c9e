"""Reference implementation of task heads, pooling and the Vision Transformer."""

from collections.abc import Callable, Mapping

import numpy as np

from attention_bridge.oracles.common import ACTIVATIONS, Array, Parameters, layer_norm, linear, scope
from attention_bridge.oracles.latents import attention_pooling
from attention_bridge.oracles.vision import patch_embedding, vit_block

OF_HEADS: Mapping[str, Callable[[Array], Array]] = {**ACTIVATIONS, "tanh": np.tanh}

EPS = 0.01  # epsilon of the norm after a hidden layer

Pool = Callable[[Parameters, Array, Array], Array]
Head = Callable[..., tuple[Array, ...]]


def _real(mask: Array | None, x: Array) -> Array:
    return np.ones(x.shape[:2], bool) if mask is None else np.broadcast_to(mask[:, 0, 0], x.shape[:2])


def first_token(parameters: Parameters, x: Array, real: Array) -> Array:
    """Vector of the first real token; 0 if there is none."""
    return np.stack(
        [text[seen][0] if seen.any() else 0 * text[0] for text, seen in zip(x, real, strict=True)]
    )


def last_token(parameters: Parameters, x: Array, real: Array) -> Array:
    """Vector of the last real token; 0 if there is none."""
    return np.stack(
        [text[seen][-1] if seen.any() else 0 * text[0] for text, seen in zip(x, real, strict=True)]
    )


def mean_pooling(parameters: Parameters, x: Array, real: Array, *, skip: int = 0) -> Array:
    """Mean vector of all real tokens after the first `skip` (Reimers, Gurevych 2019); 0 if there is none."""
    real = real & (np.cumsum(real, axis=1) > skip)
    return np.stack([text[seen].sum(axis=0) / max(seen.sum(), 1) for text, seen in zip(x, real, strict=True)])


def first_and_mean_pooling(parameters: Parameters, x: Array, real: Array, *, skip: int = 1) -> Array:
    """Vector of the first real token, then the mean vector of those after the first `skip` (Oquab et al. 2023)."""
    pooled = first_token(parameters, x, real), mean_pooling(parameters, x, real, skip=skip)
    return np.concatenate(pooled, axis=-1)


def normed_pooling(parameters: Parameters, x: Array, real: Array, *, pool: Pool, eps: float = 1e-5) -> Array:
    """Layer norm of a pooled vector (Bao et al. 2021)."""
    return layer_norm(parameters, "pooling.norm", pool(parameters, x, real), eps)


def learned_pooling(parameters: Parameters, x: Array, real: Array, *, num_heads: int) -> Array:
    """Attention of one learned probe to the real tokens (Zhai et al. 2022)."""
    pooled, _ = attention_pooling(
        scope(parameters, "pooling.attention"), x, real[:, None, None], num_heads=num_heads
    )
    return pooled[:, 0]


def hidden_layer(parameters: Parameters, x: Array, activation: str | None) -> Array:
    """Hidden layer norm(f(U x + u)) of a head (Warner et al. 2024); x without an activation."""
    if activation is None:
        return x
    hidden = OF_HEADS[activation](linear(parameters, "hidden_proj", x))
    return (
        layer_norm(parameters, "hidden_norm", hidden, EPS) if "hidden_norm.weight" in parameters else hidden
    )


def sequence_classifier(
    parameters: Parameters, x: Array, mask: Array | None, *, pool: Pool, activation: str | None = None
) -> tuple[Array]:
    """Class logits W f(U pool(x) + u) + b (Devlin et al. 2018); W pool(x) + b without an activation."""
    pooled = pool(parameters, x, _real(mask, x))
    return (linear(parameters, "classifier", hidden_layer(parameters, pooled, activation)),)


def late_classifier(parameters: Parameters, x: Array, mask: Array | None, *, activation: str) -> tuple[Array]:
    """Mean over the real tokens of the class logits W f(U x_i + u) + b (Boizard et al. 2025)."""
    (logits,) = token_classifier(parameters, x, mask, activation=activation)
    return (mean_pooling(parameters, logits, _real(mask, x)),)


def distilled_classifier(parameters: Parameters, x: Array, mask: Array | None) -> tuple[Array]:
    """Mean of the class logits W x_1 + b and V x_2 + c (Touvron et al. 2020)."""
    other = linear(parameters, "distillation_classifier", x[:, 1])
    return ((linear(parameters, "classifier", x[:, 0]) + other) / 2.0,)


def token_classifier(
    parameters: Parameters, x: Array, mask: Array | None, *, activation: str | None = None
) -> tuple[Array]:
    """Class logits W f(U x_i + u) + b of each token (Clark et al. 2020); W x_i + b without an activation."""
    x = hidden_layer(parameters, x, activation)
    return (linear(parameters, "classifier", x),)


def no_head(parameters: Parameters, x: Array, mask: Array | None) -> tuple[()]:
    """No outputs beside the hidden states."""
    return ()


def question_answering(
    parameters: Parameters, x: Array, mask: Array | None, *, activation: str | None = None
) -> tuple[Array, Array]:
    """Start and end scores, the two rows of W f(U x_i + u) + b (Devlin et al. 2018, section 4.2)."""
    scores = linear(parameters, "span_proj", hidden_layer(parameters, x, activation))
    return scores[..., 0], scores[..., 1]


def reward(parameters: Parameters, x: Array, mask: Array | None, *, pool: Pool) -> tuple[Array]:
    """Reward w · pool(x) (Ouyang et al. 2022)."""
    return (linear(parameters, "reward_proj", pool(parameters, x, _real(mask, x)))[:, 0],)


def embedding(
    parameters: Parameters, x: Array, mask: Array | None, *, pool: Pool, normalised: bool = True
) -> tuple[Array]:
    """Embedding e / ‖e‖ with e = W pool(x), or pool(x) without W (Reimers, Gurevych 2019); zeros stay zeros."""
    found = pool(parameters, x, _real(mask, x))
    if "feature_proj.weight" in parameters:
        found = linear(parameters, "feature_proj", found)
    if normalised:
        found = found / np.sqrt(np.maximum((found * found).sum(axis=-1, keepdims=True), 1e-24))
    return (found,)


def masked_language(
    parameters: Parameters, x: Array, mask: Array | None, *, activation: str = "gelu", eps: float = 1e-12
) -> tuple[Array]:
    """Token logits norm(f(U x + u)) Eᵀ + c (Devlin et al. 2018); E is `decoder.weight`."""
    h = layer_norm(parameters, "norm", OF_HEADS[activation](linear(parameters, "transform", x)), eps)
    return (h @ parameters["decoder.weight"].T + parameters["decoder_bias"],)


def linear_language(parameters: Parameters, x: Array, mask: Array | None) -> tuple[Array]:
    """Token logits x Eᵀ + c (Boizard et al. 2025), without c if there is none; E is `decoder.weight`."""
    logits = x @ parameters["decoder.weight"].T
    return (logits + parameters["decoder_bias"] if "decoder_bias" in parameters else logits,)


def alone(
    parameters: Parameters, x: Array, mask: Array | None = None, *, head: Head
) -> Array | tuple[Array, ...]:
    """Apply a head to given hidden states."""
    found = head(parameters, x, mask)
    return found if len(found) > 1 else found[0]


def vision_transformer(
    parameters: Parameters, image: Array, mask: None = None, *, num_heads: int, num_layers: int, eps: float
) -> tuple[Array, tuple[Array, ...]]:
    """Last hidden states and weights of the Vision Transformer (Dosovitskiy et al. 2020, equations 1 to 4).

    The parameters tell whether there are registers, LayerScale and a gated feed-forward network.
    """
    x = patch_embedding(scope(parameters, "patches"), image)
    weights = []
    for n in range(num_layers):
        x, layer_weights = vit_block(
            scope(parameters, f"layers.{n}"), x, None, num_heads=num_heads, norm_eps=eps
        )
        weights.append(layer_weights)
    return layer_norm(parameters, "final_norm", x, eps), tuple(weights)


def task_model(
    parameters: Parameters,
    inputs: Array,
    mask: Array | None = None,
    *,
    backbone: Callable[..., tuple[Array, ...]],
    head: Head,
) -> tuple[Array | tuple[Array, ...], ...]:
    """Outputs head(backbone(x)) of a task model.

    Parameters: `backbone`, `head`. A head without `decoder.weight` uses the backbone's token embedding.
    Returns the head's outputs, the last hidden states and the weights of each layer.
    """
    below, own = scope(parameters, "backbone"), scope(parameters, "head")
    x, *_, weights = backbone(below, inputs, mask)
    if "token_embedding.weight" in below:
        own.setdefault("decoder.weight", below["token_embedding.weight"])
    return *head(own, x, mask), x, weights
