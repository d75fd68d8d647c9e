"""`MultiHeadSelfAttention` compared with the frameworks' own layers, with the same weights and options.

The forward pass runs in evaluation mode without gradients, the backward pass in training mode.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from torch import nn

import jax_attention
import torch_attention
from attention_bridge.weights import transfer
from benchmarks.side_by_side import Contest, Run

EMBED, HEADS = 512, 8
TOLERANCE = 5e-5


@dataclass(frozen=True)
class Case:
    """One call of a layer of 512 features and 8 heads in float32.

    Attributes:
        batch, length: batch size and length of the input.
        is_causal: whether each query attends only to its own and earlier positions.
        backward: whether gradients of the input and of all parameters are also computed.
    """

    batch: int
    length: int
    is_causal: bool
    backward: bool

    def __str__(self) -> str:
        kind = "causal" if self.is_causal else "all keys"
        direction = "forward + backward" if self.backward else "forward"
        return f"layer, {self.batch} × {self.length} × {EMBED}, {HEADS} heads, {kind}, {direction}"


def cases(quick: bool) -> list[Case]:
    """The cases of the report."""
    both = (False, True)
    shapes = [(2, 128)] if quick else [(4, 512), (1, 2048)]
    return [Case(*shape, is_causal, backward) for shape in shapes for is_causal in both for backward in both]


def contests(quick: bool, only: str) -> Iterator[Contest]:
    """Yield one contest for each case whose description contains `only`."""
    return (contest(case) for case in cases(quick) if only in str(case))


def contest(case: Case) -> Contest:
    """Both mirrors' layer and the frameworks' own layers."""
    torch.manual_seed(0)
    name = "CausalSelfAttention" if case.is_causal else "MultiHeadSelfAttention"
    their_torch = nn.MultiheadAttention(EMBED, HEADS, batch_first=True)
    our_torch = transfer(their_torch, getattr(torch_attention, name)(EMBED, HEADS))
    our_jax = transfer(our_torch, getattr(jax_attention, name)(EMBED, HEADS, rngs=nnx.Rngs(0)))
    their_jax = same_weights(our_jax)
    seen = np.tril(np.ones((case.length, case.length), bool))
    hidden = torch.from_numpy(~seen) if case.is_causal else None
    visible = jnp.asarray(seen) if case.is_causal else None

    def peer(x: torch.Tensor) -> torch.Tensor:
        options = {"need_weights": False, "attn_mask": hidden, "is_causal": case.is_causal}
        return their_torch(x, x, x, **options)[0]

    return Contest(
        str(case),
        {
            "torch": torch_run(case, our_torch, lambda x: our_torch(x, need_weights=False).output),
            "jax": jax_run(case, our_jax, lambda layer, x: layer(x, need_weights=False).output),
        },
        {
            ("torch", "torch nn.MultiheadAttention"): torch_run(case, their_torch, peer),
            ("jax", "flax nnx.MultiHeadAttention"): jax_run(
                case, their_jax, lambda layer, x: layer(x, mask=visible)
            ),
        },
        TOLERANCE,
    )


def same_weights(layer: nnx.Module) -> nnx.MultiHeadAttention:
    """Flax's own layer with the weights of `layer`."""
    theirs = nnx.MultiHeadAttention(HEADS, EMBED, decode=False, rngs=nnx.Rngs(0))
    shape = (HEADS, EMBED // HEADS)
    for name, proj in (("query", layer.q_proj), ("key", layer.k_proj), ("value", layer.v_proj)):
        their_proj = getattr(theirs, name)
        their_proj.kernel[...] = proj.kernel[...].reshape(EMBED, *shape)
        their_proj.bias[...] = proj.bias[...].reshape(shape)
    theirs.out.kernel[...] = layer.out_proj.kernel[...].reshape(*shape, EMBED)
    theirs.out.bias[...] = layer.out_proj.bias[...]
    return theirs


def numbers(case: Case) -> np.ndarray:
    """A normal random input."""
    shape = (case.batch, case.length, EMBED)
    return np.random.default_rng(case.length).standard_normal(shape).astype(np.float32)


def torch_run(case: Case, layer: nn.Module, call: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    """A run in PyTorch, ready for timing; it returns the output, and the gradient of the input if asked for."""
    x = torch.from_numpy(numbers(case))
    layer.train(case.backward)

    def forward() -> list[torch.Tensor]:
        with torch.no_grad():
            return [call(x)]

    def both() -> list[torch.Tensor]:
        leaf = x.clone().requires_grad_()
        output = call(leaf)
        of_input, *_ = torch.autograd.grad(output.sum(), [leaf, *layer.parameters()])
        return [output.detach(), of_input]

    return both if case.backward else forward


def jax_run(case: Case, layer: nnx.Module, call: Callable[[Any, jax.Array], jax.Array]) -> Run:
    """A compiled run in JAX, ready for timing; it returns the output, and the gradient of the input if asked for."""
    x = jnp.asarray(numbers(case))
    graphdef, state = nnx.split(layer)

    def total(state: nnx.State, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        output = call(nnx.merge(graphdef, state), x)
        return output.sum(), output

    def both(state: nnx.State, x: jax.Array) -> tuple[jax.Array, jax.Array, nnx.State]:
        (of_state, of_input), output = jax.grad(total, argnums=(0, 1), has_aux=True)(state, x)
        return output, of_input, of_state

    run = jax.jit(both if case.backward else lambda state, x: (total(state, x)[1],))
    return lambda: list(jax.block_until_ready(run(state, x)))[:2]
