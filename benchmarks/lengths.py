"""Calls of every mechanism at any length, in all uses with their own cost, in both frameworks.

The instances are the small ones of the catalogue. They are called on one sequence in float32 without attention weights,
which are a matrix of length × length. For images the length is the number of patches.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

import torch_attention
import torch_attention.models
from attention_bridge.catalogue import Mechanism, Part
from attention_bridge.catalogue.part import build
from benchmarks.counting import Cost, jax_cost, torch_cost

SLOTS = ("SlotAttention",)  # mechanisms whose queries are not the elements of the sequence
ROTARY_ONLY = (
    "LinformerAttention",
    "NystromAttention",
    "NativeSparseAttention",
)  # mechanisms that take no other positional encoding
DROPOUT = 0.1
Arrays = dict[str, Any]


class Use(NamedTuple):
    """One way to call a mechanism.

    Attributes:
        name: name of the use.
        options: arguments of the constructor in addition to the catalogue's.
        training: whether the module is in training mode.
        given: axes of boolean arguments of the call in addition to the catalogue's, by name.
        backward: whether gradients of parameters and inputs are also computed.
    """

    name: str
    options: dict[str, Any]
    training: bool
    given: dict[str, tuple[str, ...]]
    backward: bool


def uses(mechanism: Mechanism) -> tuple[Use, ...]:
    """The uses of a mechanism; plain forward and backward come first."""
    arguments, accepted = mechanism.module.arguments, _accepted(mechanism.module.name)
    can_drop = "dropout" in accepted and "dropout" not in arguments
    found = [Use("forward", {}, False, {}, False), Use("backward", {}, False, {}, True)]
    if mechanism.masks:
        padding = {name: ("one",) * (len(axes) - 1) + axes[-1:] for name, axes in mechanism.masks.items()}
        found.append(Use("mask", {}, False, padding, True))
    if can_drop:
        found.append(Use("dropout", {"dropout": DROPOUT}, True, {}, True))
    if can_drop and mechanism.keep:
        found.append(Use("dropout mask", {"dropout": DROPOUT}, True, {"dropout_keep": mechanism.keep}, False))
    if "position" in accepted and "position" not in arguments and mechanism.name not in ROTARY_ONLY:
        heads = arguments.get("num_heads", arguments.get("num_query_heads", 1))
        found.append(Use("bias", {"position": Part("T5Bias", {"num_heads": heads})}, False, {}, True))
    if "is_causal" in accepted and "is_causal" not in arguments:
        found.append(Use("causal", {"is_causal": True}, False, {}, True))
    return tuple(found)


def _accepted(name: str) -> set[str]:
    namespaces = torch_attention, torch_attention.models
    make = next(getattr(each, name) for each in namespaces if hasattr(each, name))
    return set(inspect.signature(make.__init__).parameters)


def at_length(mechanism: Mechanism, use: Use, length: int) -> tuple[Part, Arrays]:
    """The small instance of a mechanism for a sequence of `length` tokens or patches, and its inputs."""
    side = math.isqrt(length)
    sizes = {**mechanism.sizes, "batch": 1, "key": length, "height": side, "width": side}
    named = {axis for each in (*mechanism.inputs.values(), *mechanism.tokens.values()) for axis in each}
    if "query" in named and mechanism.name not in SLOTS:
        sizes["query"] = length
    if "windows" in sizes:
        sizes["windows"] = (-(-side // mechanism.module.arguments["window_size"])) ** 2
    elif "area" in sizes:  # the whole image
        sizes["area"] = side**2
    if "patches" in sizes:  # several pixels each
        sizes["patches"] = (side // mechanism.module.arguments["reduction"]) ** 2
    if "columns" in sizes:  # learned keys and the keys of the sequence
        sizes["columns"] = length + mechanism.sizes["columns"] - mechanism.sizes["query"]
    rng = np.random.default_rng(0)
    given: Arrays = {
        name: rng.standard_normal([sizes[axis] for axis in axes]).astype(np.float32)
        for name, axes in mechanism.inputs.items()
    }
    for name, axes in mechanism.tokens.items():
        given[name] = rng.integers(0, sizes["vocab"], [sizes[axis] for axis in axes]).astype(np.int32)
    for name, x in mechanism.arguments.items():
        given[name] = ARGUMENTS[name](x, mechanism, length)
    for name, axes in use.given.items():
        given[name] = rng.random([sizes[axis] for axis in axes]) < 1.0 - DROPOUT
    part = Part(mechanism.module.name, {**mechanism.module.arguments, **use.options})
    return _longer(part, {"max_len": length, "length": length, "grid_size": (side, side)}), given


def _positions(small: np.ndarray, mechanism: Mechanism, length: int) -> np.ndarray:
    count = np.arange(length, dtype=np.int32).reshape(1, length, *(1 for _ in small.shape[2:]))
    return np.array(np.broadcast_to(count, (1, length, *small.shape[2:])))


def _random_blocks(small: np.ndarray, mechanism: Mechanism, length: int) -> np.ndarray:
    blocks = length // mechanism.module.arguments["block_size"]
    rng = np.random.default_rng(1)
    return rng.integers(0, blocks, (small.shape[0], blocks, small.shape[2])).astype(np.int32)


# Functions that make an argument of a catalogue entry's call for another length.
ARGUMENTS: dict[str, Callable[[np.ndarray, Mechanism, int], np.ndarray]] = {
    "positions": _positions,
    "global_tokens": lambda small, mechanism, length: np.arange(length)[None] < 2,
    "random_blocks": _random_blocks,
    "previous": lambda small, mechanism, length: np.full((1, length), 1 / length, np.float32),
}


def _longer(part: Part, sizes: dict[str, Any]) -> Part:
    """A part with its length arguments replaced; frequency functions keep their own lengths."""
    sizes = {} if part.name.endswith("_frequencies") else sizes
    arguments = {
        name: _longer(x, sizes) if isinstance(x, Part) else sizes.get(name, x)
        for name, x in part.arguments.items()
    }
    return Part(part.name, arguments)


def torch_program(mechanism: Mechanism, use: Use, length: int) -> Callable[[], Any]:
    """A function without arguments that calls the mechanism in PyTorch and returns outputs or gradients."""
    part, given = at_length(mechanism, use, length)
    module = build(part, "torch_attention", {"device": "cpu"}).train(use.training)
    tensors = {name: torch.from_numpy(x) for name, x in given.items()}
    options = mechanism.options(need_weights=False)

    def forward() -> Any:
        return module(**tensors, **options)

    if not use.backward:
        return forward
    learned = [x for x in (*tensors.values(), *module.parameters()) if x.is_floating_point()]
    for x in learned:
        x.requires_grad_(True)

    def backward() -> Any:
        with torch.enable_grad():
            outputs = [x for x in _tensors(forward()) if x.requires_grad]
            return torch.autograd.grad([x.sum() for x in outputs], learned, allow_unused=True)

    return backward


def _tensors(x: Any) -> list[torch.Tensor]:
    if isinstance(x, tuple | list):
        return [z for y in x for z in _tensors(y)]
    return [x] if isinstance(x, torch.Tensor) else []


def jax_program(mechanism: Mechanism, use: Use, length: int) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    """A function that calls the mechanism in JAX, and its arguments: parameters, other state and inputs."""
    part, given = at_length(mechanism, use, length)
    module = build(part, "jax_attention", {"rngs": nnx.Rngs(0)})
    module.train() if use.training else module.eval()
    definition, parameters, *others = nnx.split(module, nnx.Param, ...)
    (rest,) = others
    options = mechanism.options(need_weights=False)
    arrays = {name: jnp.asarray(x) for name, x in given.items()}
    learned = {name: x for name, x in arrays.items() if jnp.issubdtype(x.dtype, jnp.floating)}
    fixed = {name: x for name, x in arrays.items() if name not in learned}

    def forward(parameters: Any, learned: Any, rest: Any, fixed: Any) -> Any:
        result = nnx.merge(definition, parameters, rest, copy=True)(**learned, **fixed, **options)
        return [x for x in jax.tree.leaves(result) if jnp.issubdtype(x.dtype, jnp.floating)]

    def total(*arguments: Any) -> jax.Array:
        return sum((x.sum() for x in forward(*arguments)), jnp.zeros(()))

    program = jax.grad(total, argnums=(0, 1)) if use.backward else forward
    return program, (parameters, learned, rest, fixed)


def cost(mechanism: Mechanism, framework: str, use: Use, length: int) -> Cost:
    """The counted cost of a call at a given length."""
    if framework == "torch":
        return torch_cost(torch_program(mechanism, use, length))
    program, given = jax_program(mechanism, use, length)
    return jax_cost(program, *given)
