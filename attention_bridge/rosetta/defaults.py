"""Defaults outside attention that differ between the frameworks, a common cause of differences near 1e-3."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Default:
    """Default value of each framework; empty if the framework has no such option.

    Attributes:
        name: identifier of the row, used by tests.
        text: description of the default.
        torch, flax, keras, equinox, haiku: value in the framework, in words.
    """

    name: str
    text: str
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
        "mean square of centred values",
        "mean square minus squared mean",
        "mean square of centred values",
        "mean square of centred values",
        "mean square of centred values",
    ),
    Default(
        "rms_norm_eps", "RMSNorm, eps", "machine epsilon of the dtype", "1e-06", "1e-06", "1e-05", "1e-05"
    ),
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
