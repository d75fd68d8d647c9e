"""Training parity: the same weights and batches, torch.optim and optax, one curve of losses."""

from dataclasses import dataclass
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge.running import on_platform
from attention_bridge.weights import transfer

pytestmark = pytest.mark.slow

STEPS, BATCHES = 120, 4
BATCH, HEADS, LENGTH, MEMORY, EMBED, FFN = 2, 3, 5, 7, 12, 13
LEARNING_RATE, BETAS, EPS, DECAY = 1e-2, (0.9, 0.999), 1e-8, 1e-2
# Rounding grows from step to step: the bounds are on curves, not on single steps.
BOUNDS = {"float64": 1e-9, "float32": 1e-4}


@dataclass(frozen=True)
class Regression:
    """A module that learns to give what the same module with other weights gives."""

    name: str
    arguments: dict[str, Any]
    lengths: dict[str, int]

    def build(self, package: Any, **options: Any) -> Any:
        return getattr(package, self.name)(**self.arguments, **options)


REGRESSIONS = (
    Regression("MultiHeadSelfAttention", {"embed_dim": EMBED, "num_heads": HEADS}, {"x": LENGTH}),
    Regression(
        "EncoderDecoderAttention",
        {
            "embed_dim": EMBED,
            "num_heads": HEADS,
            "ffn_dim": FFN,
            "activation": "gelu_tanh",
            "norm_first": True,
        },
        {"x": LENGTH, "memory": MEMORY},
    ),
)


def draw_parameters(module: torch.nn.Module, rng: np.random.Generator) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            centre = 1.0 if name.endswith("norm.weight") else 0.0
            parameter.copy_(torch.from_numpy(centre + 0.3 * rng.standard_normal(tuple(parameter.shape))))


def batches(regression: Regression, rng: np.random.Generator, dtype: str) -> list[dict[str, np.ndarray]]:
    """Inputs and targets, a few batches that come round again."""
    teacher = regression.build(torch_attention, dtype=torch.float64)
    draw_parameters(teacher, rng)
    drawn = []
    for _ in range(BATCHES):
        given = {
            name: rng.standard_normal((BATCH, length, EMBED)) for name, length in regression.lengths.items()
        }
        target = teacher(**{name: torch.from_numpy(x) for name, x in given.items()}).output
        drawn.append(
            {name: x.astype(dtype) for name, x in (*given.items(), ("target", target.detach().numpy()))}
        )
    return drawn


def train_torch(module: torch.nn.Module, drawn: list[dict[str, np.ndarray]]) -> list[float]:
    optimizer = torch.optim.AdamW(
        module.parameters(), lr=LEARNING_RATE, betas=BETAS, eps=EPS, weight_decay=DECAY
    )
    losses = []
    for step in range(STEPS):
        given = {name: torch.from_numpy(x) for name, x in drawn[step % BATCHES].items()}
        target = given.pop("target")
        loss = ((module(**given, need_weights=False).output - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_jax(module: nnx.Module, drawn: list[dict[str, np.ndarray]], decay: float) -> list[float]:
    rule = optax.adamw(LEARNING_RATE, b1=BETAS[0], b2=BETAS[1], eps=EPS, eps_root=0.0, weight_decay=decay)
    optimizer = nnx.Optimizer(module, rule, wrt=nnx.Param)
    chex.clear_trace_counter()

    @nnx.jit
    @chex.assert_max_traces(n=1)
    def step(
        module: nnx.Module, optimizer: nnx.Optimizer, given: dict[str, jax.Array], target: jax.Array
    ) -> jax.Array:
        def loss_of(module: nnx.Module) -> jax.Array:
            return ((module(**given, need_weights=False).output - target) ** 2).mean()

        loss, gradients = nnx.value_and_grad(loss_of)(module)
        optimizer.update(module, gradients)
        return loss

    losses = []
    for number in range(STEPS):
        given = {name: jnp.asarray(x) for name, x in drawn[number % BATCHES].items()}
        target = given.pop("target")
        losses.append(step(module, optimizer, given, target))
    return [float(loss) for loss in losses]


def curves(
    regression: Regression, dtype: str, rng: np.random.Generator, jax_decay: float = DECAY
) -> tuple[np.ndarray, np.ndarray]:
    """The losses of both mirrors from the same weights on."""
    drawn = batches(regression, rng, dtype)
    ours = regression.build(torch_attention, dtype=getattr(torch, dtype))
    draw_parameters(ours, rng)
    with on_platform("cpu", float64=dtype == "float64"):
        theirs = transfer(ours, regression.build(jax_attention, rngs=nnx.Rngs(0), param_dtype=dtype))
        their_losses = train_jax(theirs, drawn, jax_decay)
    return np.array(train_torch(ours, drawn)), np.array(their_losses)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("regression", REGRESSIONS, ids=lambda regression: regression.name)
def test_both_mirrors_learn_along_the_same_curve(
    regression: Regression, dtype: str, rng: np.random.Generator, as_shipped: None
) -> None:
    ours, theirs = curves(regression, dtype, rng)
    distance = np.max(np.abs(theirs / ours - 1.0))
    print(f"{regression.name} {dtype}: {distance:.1e} apart, loss {ours[0]:.3f} to {ours[-1]:.3f}")
    assert distance < BOUNDS[dtype]
    assert ours[-BATCHES:].mean() < ours[:BATCHES].mean() / 2


def test_a_decay_left_to_the_framework_parts_the_curves(rng: np.random.Generator, as_shipped: None) -> None:
    """A control: optax decays by 1e-4 where PyTorch decays by 1e-2."""
    ours, theirs = curves(REGRESSIONS[0], "float32", rng, jax_decay=1e-4)
    assert np.max(np.abs(theirs / ours - 1.0)) > 10 * BOUNDS["float32"]
