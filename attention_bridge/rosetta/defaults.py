"""Defaults outside attention that differ between the frameworks: the usual rest of a difference of 1e-3."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Default:
    """What each framework takes if nothing is said; empty where it has no such thing.

    Attributes:
        name: of the row; tests know it.
        what: in words.
        torch, flax, keras, equinox, haiku: the value, in words.
    """

    name: str
    what: str
    torch: str
    flax: str
    keras: str
    equinox: str
    haiku: str


DEFAULTS = (
    Default("layer_norm_eps", "LayerNorm, eps", "1e-05", "1e-06", "0.001", "1e-05", "1e-05"),
    Default(
        "layer_norm_variance",
        "LayerNorm, variance",
        "of the centred numbers",
        "mean of squares minus square of mean",
        "of the centred numbers",
        "of the centred numbers",
        "of the centred numbers",
    ),
    Default("rms_norm_eps", "RMSNorm, eps", "that of the dtype", "1e-06", "1e-06", "1e-05", "1e-05"),
    Default("rms_norm_bias", "RMSNorm, a bias", "no", "no", "no", "yes", "no"),
    Default("gelu", "GELU (`jax.nn.gelu` for all of JAX)", "erf", "tanh", "erf", "tanh", "tanh"),
    Default("attention_bias", "attention layer, biases", "yes", "yes", "yes", "no", "yes"),
    Default(
        "linear_weight",
        "linear layer of n inputs and m outputs, standard deviation of new weights",
        "1/√(3n)",
        "1/√n",
        "√(2/(n+m))",
        "1/√(3n)",
        "0.88/√n",
    ),
    Default("linear_bias", "linear layer, new bias", "random", "zero", "zero", "random", "zero"),
    Default(
        "embedding",
        "embedding of d features, standard deviation of new weights",
        "1",
        "1/√d",
        "0.029",
        "1",
        "0.88",
    ),
    Default(
        "adamw_decay", "AdamW, decay (Optax for all of JAX)", "0.01", "0.0001", "0.004", "0.0001", "0.0001"
    ),
    Default("adamw_eps", "AdamW, eps", "1e-08", "1e-08", "1e-07", "1e-08", "1e-08"),
)
