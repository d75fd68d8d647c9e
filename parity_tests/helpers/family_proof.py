"""Proof of a family: the results of transformers in float64 against a mirror's model, beyond the outputs.

`proof` is of a text model: hidden states of every layer, attention maps, padding on the right and on the left, cached
generation; and of any model: bfloat16 and gradients. The reference of a text model reads each sequence alone, without
padding: padding must change nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx
from safetensors.numpy import load_file

from attention_bridge.pretrained import load_pretrained, read_pretrained
from attention_bridge.weights import convert
from attention_bridge.weights.names import pattern
from parity_tests.helpers import families
from parity_tests.helpers.family_cases.case import Case
from parity_tests.helpers.program import program

ARRAYS: dict[str, Callable[[Any], Any]] = {"torch": torch.as_tensor, "jax": jnp.asarray}
IN_BFLOAT16: dict[str, Callable[[Any], Any]] = {
    "torch": lambda x: torch.as_tensor(x, dtype=torch.bfloat16 if x.dtype == np.float32 else None),
    "jax": lambda x: jnp.asarray(x, jnp.bfloat16 if x.dtype == np.float32 else None),
}
# Rounding errors of two correct programs in one dtype are alike: a mirror's may be this many times the reference's.
ALIKE = 3.0


class Deviation(NamedTuple):
    """A compared result.

    Attributes:
        name: name of the result, such as `left padding, state 1`.
        found: deviation from the float64 reference.
        allowed: largest allowed deviation.
    """

    name: str
    found: float
    allowed: float


class Proof:
    """A tiny model of transformers and its checkpoint.

    Args:
        case: the model's classes and fields.
        directory: where the checkpoint is written.
    """

    def __init__(self, case: Case, directory: Path):
        self.case = case
        self.directory = directory
        built = families.model(case)
        self.bound = families.bound(built)
        built.save_pretrained(directory)
        self.built = plain(built.double())
        with torch.no_grad():
            results = self.theirs(self.built)
        self.outputs = sorted(name for name, x in results.items() if x is not None and " " not in name)

    def deviations(self, framework: str) -> Iterator[Deviation]:
        """The deviations of a mirror's model in float32: outputs, hidden states, maps, cached generation."""
        with torch.no_grad():
            expected = float64(self.theirs(self.built))
        found = self.found(load_pretrained(self.directory, framework), ARRAYS[framework])
        for name, x in expected.items():
            yield self.compared(name, found[name], x)

    def in_bfloat16(self, framework: str) -> Iterator[Deviation]:
        """Root mean squares of the deviations in bfloat16; transformers in bfloat16 sets the limit."""
        kind = type(self.built)
        wide = plain(rounded(kind, self.directory).double())
        theirs = plain(rounded(kind, self.directory))
        with torch.no_grad():
            expected, other = float64(self.theirs(wide)), float64(self.theirs(theirs))
        model = load_pretrained(self.directory, framework, dtype="bfloat16")
        found = self.found(model, IN_BFLOAT16[framework])
        for name in self.outputs:
            worst = root_mean_square(found[name], expected[name])
            allowed = ALIKE * root_mean_square(other[name], expected[name])
            if worst > allowed:  # the errors of few numbers differ by chance
                for each in inexact(wide, torch.bfloat16):
                    with torch.no_grad():
                        near = float64(self.theirs(each))[name]
                    allowed = max(allowed, ALIKE * root_mean_square(near, expected[name]))
            yield Deviation(f"bfloat16 {name}", worst, allowed)

    def gradients(self, framework: str) -> Iterator[Deviation]:
        """The deviation of the gradients of a random linear function of the outputs, by all parameters."""
        reading = read_pretrained(self.directory).reading
        expected = self._their_gradients(self.built, reading)
        others = [self._their_gradients(each, reading) for each in roundings(self.built)]
        found = self._our_gradients(load_pretrained(self.directory, framework), framework)
        names = sorted(name for name in expected.keys() & found.keys() if not np.isnan(expected[name]).any())
        assert names, "no gradients to compare"
        largest = max(float(np.abs(expected[name]).max()) for name in names)
        *rounded, worst = (
            max(float(np.abs(given[name] - expected[name]).max()) for name in names) / largest
            for given in (*others, found)
        )
        yield Deviation(f"gradients of {len(names)} tensors", worst, max(ALIKE * max(rounded), self.bound))

    def compared(self, name: str, found: np.ndarray, expected: np.ndarray) -> Deviation:
        """The deviation of a result in float32 from the float64 reference.

        Where activations grow, such as squared ones, it may exceed the bound as far as `roundings` of transformers do.
        """
        worst = deviation(found, expected)
        return Deviation(name, worst, limit(worst, expected, self.bound, self._rounded(name)))

    def _rounded(self, name: str) -> Iterator[np.ndarray]:
        for each in roundings(self.built):
            with torch.no_grad():
                yield float64(self.theirs(each))[name]

    def excess(self, name: str, found: np.ndarray, expected: np.ndarray) -> float:
        """The deviation of a result as a multiple of the largest allowed one."""
        each = self.compared(name, found, expected)
        return each.found / each.allowed

    def theirs(self, model: Any) -> dict[str, Any]:
        """The results of a model of transformers, by name; those whose name is one word are outputs."""
        given = families.tensors(self.case)
        dtype = next(model.parameters()).dtype
        return families.CALLS[self.case.kind](
            model, {name: x.to(dtype) if x.is_floating_point() else x for name, x in given.items()}
        )

    def found(self, model: Any, array: Callable[[Any], Any]) -> dict[str, np.ndarray]:
        """The same results of a mirror's model, as float64 arrays."""
        return float64(program(model, lambda model: self.ours(model, array))())

    def ours(self, model: Any, array: Callable[[Any], Any]) -> dict[str, Any]:
        """The same results of a mirror's model, as arrays of its framework or None."""
        return families.outputs(self.case, model, array)

    def _their_gradients(self, model: Any, reading: Any) -> dict[str, np.ndarray]:
        """The gradients with our names; NaN for tensors that transformers does not train, such as buffers."""
        model.zero_grad()
        self._loss(self.theirs(model), torch.as_tensor).backward()
        every = [*model.parameters(), *(x for x in model.buffers() if x.is_floating_point() and x.any())]
        values = [x.detach().clone() for x in every]
        with torch.no_grad():
            for x in every:
                x.copy_(torch.full_like(x, torch.nan) if x.grad is None else x.grad)
            model.save_pretrained(self.directory / "gradients")  # with the names and axes of a checkpoint
            for x, value in zip(every, values, strict=True):
                x.copy_(value)
        tensors = load_file(self.directory / "gradients" / "model.safetensors")
        found, _ = convert(tensors, reading.layout, "torch_attention", reading.axes)
        zero = [pattern(each.bias) for each in reading.layout.zero_biases]  # only the mirrors have these
        return {name: x for name, x in found.items() if all(each.match(name) is None for each in zero)}

    def _our_gradients(self, model: Any, framework: str) -> dict[str, np.ndarray]:
        array = ARRAYS[framework]
        if framework == "torch":
            self._loss(self.ours(model, array), array).backward()
            return {name: x.grad.numpy() for name, x in model.named_parameters() if x.grad is not None}
        grads = program(model, nnx.grad(lambda model: self._loss(self.ours(model, array), array)))()
        named = {".".join(map(str, path)): np.asarray(x[...]) for path, x in nnx.to_flat_state(grads)}
        return convert(named, "jax_attention", "torch_attention")[0]

    def _loss(self, results: dict[str, Any], array: Callable[[Any], Any]) -> Any:
        """A random linear function of the outputs of transformers."""
        rng, total = np.random.default_rng(3), 0.0
        for name in self.outputs:
            x = results[name]
            weights = array(rng.normal(size=tuple(x.shape)).astype(np.float32))
            total = total + (x * (weights.to(x.dtype) if isinstance(x, torch.Tensor) else weights)).sum()
        return total


def limit(worst: float, expected: np.ndarray, bound: float, rounded: Iterable[np.ndarray]) -> float:
    """The largest allowed deviation: the bound, or if `worst` exceeds it, the deviation of equal roundings.

    Args:
        worst: deviation of a mirror's result.
        expected: the result in float64.
        bound: bound of the rounding errors.
        rounded: the results of `roundings`, computed only if they are needed.
    """
    if worst <= bound:
        return bound
    return max(bound, *(ALIKE * deviation(each, expected) for each in rounded))


def roundings(built: Any) -> Iterator[Any]:
    """A model of transformers in float32, and in float64 with parameters of a relative error of float32."""
    yield built.float()
    yield from inexact(built.double(), torch.float32)


def inexact(built: Any, dtype: torch.dtype) -> Iterator[Any]:
    """A model three times, with parameters of a random relative error of this dtype."""
    generator, kept = torch.Generator().manual_seed(7), [x.detach().clone() for x in built.parameters()]
    eps = torch.finfo(dtype).eps
    for _ in range(3):
        with torch.no_grad():
            for x, value in zip(built.parameters(), kept, strict=True):
                x.copy_(value * (1 + eps * (2 * torch.rand(x.shape, generator=generator) - 1)))
        yield built
    with torch.no_grad():
        for x, value in zip(built.parameters(), kept, strict=True):
            x.copy_(value)


def rounded(kind: Any, directory: Path) -> Any:
    """The model of transformers in bfloat16, with all parameters, some of which it makes in float32 by mistake."""
    made = kind.from_pretrained(directory, dtype=torch.bfloat16).eval()
    if not made._keep_in_fp32_modules:
        for x in made.parameters():
            x.data = x.data.to(torch.bfloat16)
    return made


def plain(model: Any) -> Any:
    """The model with the eager attention and experts of transformers, the only ones with maps and float64."""
    for config in (
        model.config,
        *(getattr(model.config, part, None) for part in ("text_config", "vision_config")),
    ):
        if config is not None:
            config._attn_implementation = "eager"
    model.config._experts_implementation = "eager"
    model.config.use_cache = False
    return model


def float64(found: dict[str, Any]) -> dict[str, np.ndarray]:
    """The results that are not None as float64 arrays."""
    return {
        name: x.detach().double().numpy() if isinstance(x, torch.Tensor) else np.asarray(x, np.float64)
        for name, x in found.items()
        if x is not None
    }


def deviation(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest expected number."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def root_mean_square(found: np.ndarray, expected: np.ndarray) -> float:
    """The root mean square of the differences."""
    assert found.shape == expected.shape, (found.shape, expected.shape)
    return float(np.sqrt(np.mean((found - expected) ** 2)))
