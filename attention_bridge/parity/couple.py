"""Two models that are compared: how each runs, and which names of the one belong to which of the other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from flax import nnx

from attention_bridge.errors import ConversionError, InputError
from attention_bridge.parity.any_run import run_jax_model, run_torch_model
from attention_bridge.parity.calls import Calls
from attention_bridge.parity.jax_models import jax_model
from attention_bridge.parity.matching import Outputs, matched
from attention_bridge.parity.run import Arrays, Run, run_jax, run_torch
from attention_bridge.weights import convert
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import to_numpy
from attention_bridge.weights.twins.gradients import gradients_by_twin
from attention_bridge.weights.twins.modules import are_twins, may_be_twins, paired
from attention_bridge.weights.twins.submodules import corresponding


@dataclass(frozen=True)
class Couple:
    """A PyTorch and a JAX model with the same weights.

    Attributes:
        torch_module: the PyTorch model.
        jax_module: the JAX model, as in `compare`.
        layout: layout of the PyTorch model's names; None for the mirrors' names or aligned layers.
        names: names of PyTorch's modules, and JAX's names for them.
        outputs: which outputs are compared, as in `compare`.
    """

    torch_module: torch.nn.Module
    jax_module: Any
    layout: Layout | str | None = None
    names: Mapping[str, str] | None = None
    outputs: Outputs = None

    def __post_init__(self) -> None:
        if self.layout is not None and self.names:
            raise InputError("names must be given without layout, which has names of its own")

    @cached_property
    def module(self) -> Any:
        """The holder of the JAX model's weights."""
        return jax_model(self.jax_module).module

    @cached_property
    def is_own(self) -> bool:
        """Whether layers are aligned, because the models are not of the mirrors."""
        if self.layout is not None:
            return False
        if self.names or not isinstance(self.jax_module, nnx.Module):
            return True
        if are_twins(self.torch_module, self.jax_module):
            return True
        given, wanted = open_container(self.jax_module), open_container(self.torch_module)
        try:
            renamed = self._renamed({name: to_numpy(name, leaf) for name, leaf in given.leaves.items()})
        except ConversionError:
            return True
        if may_be_twins(self.torch_module, self.jax_module, wanted, given):
            return renamed.keys() != wanted.leaves.keys()
        return not renamed.keys() & wanted.leaves.keys()

    def run_torch(self, module: torch.nn.Module, calls: Calls, inputs: Arrays) -> Run:
        """Run the PyTorch model, or its copy in another dtype."""
        if calls.of_torch is None and self.outputs is None:
            return run_torch(module, inputs)
        over = [*self.outputs] if isinstance(self.outputs, Mapping) else None
        return run_torch_model(module, calls, inputs, self._picked, over)

    def run_jax(self, calls: Calls) -> tuple[Run, frozenset[str]]:
        """Run the JAX model; gradients have PyTorch's names. Also PyTorch's names without a gradient in JAX."""
        if not self.is_own and self.layout is None and calls.of_jax is None and self.outputs is None:
            return run_jax(self.jax_module, calls.inputs, positional=calls.positional), frozenset()
        over = [*self.outputs.values()] if isinstance(self.outputs, Mapping) else None
        outputs, of_parameters, of_inputs = run_jax_model(
            jax_model(self.jax_module), calls, self._picked, over
        )
        if not self.is_own:
            return Run(outputs, of_inputs | self._renamed(of_parameters)), frozenset()
        carried = gradients_by_twin(self.module, self.torch_module, of_parameters, self.names)
        own = dict(self.torch_module.named_parameters())
        gradients = {name: x for name, x in carried.gradients.items() if name in own}
        return Run(outputs, of_inputs | gradients), carried.absent

    def matched(self, ours: Arrays, theirs: Arrays) -> tuple[Arrays, Arrays]:
        """The outputs of both models that are compared, by PyTorch's names."""
        return matched(ours, theirs, self.outputs)

    def submodules(self) -> dict[str, str]:
        """PyTorch's paths of submodules and JAX's, of those that hold the same weights."""
        ours = [path for path, _ in self.torch_module.named_modules() if path]
        if not isinstance(self.jax_module, nnx.Module):
            return {}
        theirs = [".".join(map(str, path)) for path, _ in nnx.iter_modules(self.jax_module) if path]
        if not self.is_own:
            return {path: path for path in ours if path in set(theirs)}
        found = paired(
            self.torch_module,
            self.module,
            open_container(self.torch_module),
            open_container(self.module),
            self.names or {},
        )
        split = ([tuple(path.split(".")) for path in sorted(paths, key=_depth)] for paths in (ours, theirs))
        return {".".join(one): ".".join(other) for one, other in corresponding(found.pairs, *split)}

    @property
    def _picked(self) -> Any:
        return self.outputs if callable(self.outputs) else None

    def _renamed(self, arrays: Arrays) -> Arrays:
        return convert(arrays, open_container(self.module).layout, self.layout or "torch_attention")[0]


def _depth(path: str) -> int:
    return path.count(".")
