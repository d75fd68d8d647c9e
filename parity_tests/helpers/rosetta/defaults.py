"""The defaults in docs/rosetta.md, read from the frameworks or measured."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch

Names = dict[str, Any]
WIDE, NARROW = 1024, 256
CUT = 0.8796  # standard deviation of a normal distribution truncated at two standard deviations


def row(torch: Any, flax: Any, keras: Any, equinox: Any, haiku: Any) -> dict[str, str]:
    return {
        "torch": f"{torch}", "flax": f"{flax}", "keras": f"{keras}", "equinox": f"{equinox}", "haiku": f"{haiku}"
    }  # fmt: skip


def default(function: Any, name: str) -> Any:
    """The default of a parameter; None if there is no such parameter."""
    found = inspect.signature(function.__init__ if isinstance(function, type) else function).parameters
    return found[name].default if name in found else None


def layer_norm_eps(n: Names) -> dict[str, str]:
    flax = {default(n["nnx"].LayerNorm, "epsilon"), n["linen"].LayerNorm().epsilon}
    [flax_eps] = flax
    return row(
        torch.nn.LayerNorm(3).eps,
        flax_eps,
        n["keras"].layers.LayerNormalization().epsilon,
        default(n["eqx"].nn.LayerNorm, "eps"),
        default(n["hk"].LayerNorm, "eps"),
    )


def layer_norm_variance(n: Names) -> dict[str, str]:
    """How LayerNorm computes the variance, tested with numbers around 1000, whose squares lose the difference."""
    x = (1000 + np.random.default_rng(0).standard_normal((1, 64))).astype(np.float32)
    wide = x.astype(np.float64)
    eps = 1e-5
    exact = (wide - wide.mean()) / np.sqrt(wide.var() + eps)
    in_jax = jnp.asarray(x)
    haiku = n["hk"].transform(lambda x: n["hk"].LayerNorm(-1, True, True, eps)(x))
    outputs = (
        torch.nn.functional.layer_norm(torch.from_numpy(x), (64,), eps=eps).numpy(),
        n["nnx"].LayerNorm(64, epsilon=eps, rngs=n["nnx"].Rngs(0))(in_jax),
        n["keras"].ops.convert_to_numpy(n["keras"].layers.LayerNormalization(epsilon=eps)(x)),
        n["eqx"].nn.LayerNorm(64, eps)(in_jax[0])[None],
        haiku.apply(haiku.init(jax.random.key(0), in_jax), None, in_jax),
    )
    # The mean has a rounding error of 1000 u, the mean of squares one of 1000**2 u.
    lost = [np.abs(np.asarray(y) - exact).max() > 64 * 1000 * 2.0**-24 for y in outputs]
    words = ("mean square of centred values", "mean square minus squared mean")
    return row(*(words[int(each)] for each in lost))


def rms_norm_eps(n: Names) -> dict[str, str]:
    assert torch.nn.RMSNorm(3).eps is None
    x = torch.tensor([[1e-4, 2e-4]])  # small enough to show eps
    eps = torch.finfo(torch.float32).eps
    torch.testing.assert_close(torch.nn.RMSNorm(2)(x), x * torch.rsqrt(x.square().mean() + eps))
    [flax] = {default(n["nnx"].RMSNorm, "epsilon"), n["linen"].RMSNorm().epsilon}
    return row(
        "machine epsilon of the dtype",
        flax,
        n["keras"].layers.RMSNormalization().epsilon,
        default(n["eqx"].nn.RMSNorm, "eps"),
        default(n["hk"].RMSNorm, "eps"),
    )


def rms_norm_bias(n: Names) -> dict[str, str]:
    keras = n["keras"].layers.RMSNormalization()
    keras.build((1, 3))
    haiku = n["hk"].transform(lambda x: n["hk"].RMSNorm(-1)(x)).init(jax.random.key(0), jnp.ones((1, 3)))
    flax = n["nnx"].state(n["nnx"].RMSNorm(3, rngs=n["nnx"].Rngs(0)))
    counts = (
        len(list(torch.nn.RMSNorm(3).parameters())),
        len(jax.tree.leaves(flax)),
        len(keras.weights),
        len(jax.tree.leaves(n["eqx"].filter(n["eqx"].nn.RMSNorm(3), n["eqx"].is_array))),
        len(jax.tree.leaves(haiku)),
    )
    return row(*("yes" if count == 2 else "no" for count in counts))


def gelu(n: Names) -> dict[str, str]:
    x = np.float32(-2.7)
    erf = torch.nn.functional.gelu(torch.tensor(x), approximate="none").item()
    tanh = torch.nn.functional.gelu(torch.tensor(x), approximate="tanh").item()
    in_jax = float(jax.nn.gelu(x))
    outputs = (
        torch.nn.GELU()(torch.tensor(x)).item(),
        float(n["nnx"].gelu(x)),
        float(n["keras"].activations.gelu(n["keras"].ops.convert_to_tensor(x))),
        in_jax,
        in_jax,
    )
    assert abs(erf - tanh) > 1e-4
    return row(*("erf" if abs(y - erf) < abs(y - tanh) else "tanh" for y in outputs))


def attention_bias(n: Names) -> dict[str, str]:
    given = (
        default(torch.nn.MultiheadAttention, "bias"),
        default(n["nnx"].MultiHeadAttention, "use_bias"),
        default(n["keras"].layers.MultiHeadAttention, "use_bias"),
        default(n["eqx"].nn.MultiheadAttention, "use_query_bias"),
        default(n["hk"].MultiHeadAttention, "with_bias"),
    )
    return row(*("yes" if each else "no" for each in given))


def linears(n: Names) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of newly initialised linear layers from `NARROW` to `WIDE` features."""
    torch.manual_seed(0)
    in_torch = torch.nn.Linear(NARROW, WIDE)
    in_flax = n["nnx"].Linear(NARROW, WIDE, rngs=n["nnx"].Rngs(0))
    n["keras"].utils.set_random_seed(0)
    in_keras = n["keras"].layers.Dense(WIDE)
    in_keras.build((1, NARROW))
    in_equinox = n["eqx"].nn.Linear(NARROW, WIDE, key=jax.random.key(0))
    haiku = (
        n["hk"].transform(lambda x: n["hk"].Linear(WIDE)(x)).init(jax.random.key(0), jnp.ones((1, NARROW)))
    )
    pairs = (
        [p.detach() for p in in_torch.parameters()],
        [in_flax.kernel[...], in_flax.bias[...]],
        [n["keras"].ops.convert_to_numpy(w) for w in in_keras.weights],
        [in_equinox.weight, in_equinox.bias],
        [haiku["linear"]["w"], haiku["linear"]["b"]],
    )
    return [(np.asarray(weight), np.asarray(bias)) for weight, bias in pairs]


def nearest(value: float, known: dict[str, float]) -> str:
    """The name of the known number within 2 % of `value`: over five standard errors of 2**18 samples."""
    [word] = [word for word, number in known.items() if abs(value / number - 1) < 0.02]
    return word


def linear_weight(n: Names) -> dict[str, str]:
    known = {
        "1/√(3n)": (3 * NARROW) ** -0.5,
        "1/√n": NARROW**-0.5,
        "0.88/√n": CUT * NARROW**-0.5,
        "√(2/(n+m))": (2 / (NARROW + WIDE)) ** 0.5,
    }
    return row(*(nearest(weight.std(), known) for weight, _ in linears(n)))


def linear_bias(n: Names) -> dict[str, str]:
    return row(*("random" if bias.any() else "zero" for _, bias in linears(n)))


def embedding(n: Names) -> dict[str, str]:
    torch.manual_seed(0)
    n["keras"].utils.set_random_seed(0)
    in_keras = n["keras"].layers.Embedding(WIDE, NARROW)
    in_keras.build()
    ids = jnp.zeros((1,), int)
    haiku = n["hk"].transform(lambda x: n["hk"].Embed(WIDE, NARROW)(x)).init(jax.random.key(0), ids)
    tables = (
        torch.nn.Embedding(WIDE, NARROW).weight.detach(),
        n["nnx"].Embed(WIDE, NARROW, rngs=n["nnx"].Rngs(0)).embedding[...],
        n["keras"].ops.convert_to_numpy(in_keras.weights[0]),
        n["eqx"].nn.Embedding(WIDE, NARROW, key=jax.random.key(0)).weight,
        haiku["embed"]["embeddings"],
    )
    known = {"1": 1.0, "1/√d": NARROW**-0.5, "0.029": 0.05 / 3**0.5, "0.88": CUT}
    return row(*(nearest(np.asarray(table).std(), known) for table in tables))


def adamw_decay(n: Names) -> dict[str, str]:
    of_optax = default(optax.adamw, "weight_decay")
    return row(
        adamw(n)["weight_decay"], of_optax, n["keras"].optimizers.AdamW().weight_decay, of_optax, of_optax
    )


def adamw_eps(n: Names) -> dict[str, str]:
    of_optax = default(optax.adamw, "eps")
    return row(adamw(n)["eps"], of_optax, n["keras"].optimizers.AdamW().epsilon, of_optax, of_optax)


def adamw(n: Names) -> dict[str, Any]:
    return torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).defaults


MEASURED: dict[str, Callable[[Names], dict[str, str]]] = {
    function.__name__: function
    for function in (
        layer_norm_eps,
        layer_norm_variance,
        rms_norm_eps,
        rms_norm_bias,
        gelu,
        attention_bias,
        linear_weight,
        linear_bias,
        embedding,
        adamw_decay,
        adamw_eps,
    )
}
