"""Certificates of two models in Python."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import torch

from attention_bridge.parity.calls import SEED, Call, calls
from attention_bridge.parity.certificates import hashes
from attention_bridge.parity.certificates.certificate import Certificate
from attention_bridge.parity.certificates.figures import figures
from attention_bridge.parity.certificates.layouts import described
from attention_bridge.parity.comparison import measure
from attention_bridge.parity.couple import Couple
from attention_bridge.parity.matching import Outputs
from attention_bridge.weights.containers import open_container
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.leaves import to_numpy


def certify(
    torch_module: torch.nn.Module,
    jax_module: Any,
    *inputs: Any,
    platform: str = "cpu",
    layout: Layout | str | None = None,
    names: Mapping[str, str] | None = None,
    outputs: Outputs = None,
    torch_call: Call | None = None,
    jax_call: Call | None = None,
    **kwargs: Any,
) -> Certificate:
    """Compare a PyTorch module and a JAX module as `compare` does, and return the figures as a certificate.

    The certificate has the SHA-256 of the tensors of both modules, of the inputs and of the results; the versions and
    devices; the largest errors and the bound. `certify(...).save("CERT.json")` writes it, and `attention-bridge check
    CERT.json --models FILE.py:FUNCTION` repeats it, with a function that returns this call.

    Args:
        torch_module: the PyTorch module.
        jax_module: the JAX module with the same weights, as in `compare`.
        inputs: positional arguments of both calls, as in `compare`.
        platform: platform that JAX runs on: `cpu`, `gpu` or `tpu`.
        layout: layout of the PyTorch module's names, as in `compare`.
        names: names of PyTorch's modules or paths, and JAX's names for them.
        outputs: names of PyTorch's outputs to be compared and JAX's names for them, or a function, as in `compare`.
        torch_call: function of the PyTorch module and the inputs that calls it; None calls the module itself.
        jax_call: function of the JAX module and the inputs that calls it; None calls the module itself.
        kwargs: keyword arguments of both calls.

    Returns:
        The certificate; `ok` is False if an error exceeds the bound.

    Raises:
        ValueError: the modules do not have the same outputs or parameters, or do not take the inputs.
        PlatformError: JAX has no such platform.
    """
    couple = Couple(torch_module, jax_module, layout, names, outputs)
    called = calls(torch_module, inputs, kwargs, torch_call, jax_call)
    measured = measure(couple, called, platform)
    is_drawn = any(isinstance(x, jax.ShapeDtypeStruct) for x in (*inputs, *kwargs.values()))
    subject = {
        "torch": type(torch_module).__name__,
        "jax": type(couple.module).__name__,
        "platform": platform,
        "layout": None if layout is None else described(layout),
        "names": dict(names or {}),
        "outputs": _outputs(outputs),
        "arguments": {
            name: x if x is None or isinstance(x, str | int | float | bool) else type(x).__name__
            for name, x in called.inputs.items()
            if not hasattr(x, "dtype")
        },
    }
    run = figures("modules", measured, called.inputs, {"inputs": SEED if is_drawn else None})
    weights = {"torch": tensors_of(torch_module), "jax": tensors_of(couple.module)}
    return Certificate.made("modules", subject, weights, [run], platform)


def tensors_of(module: Any) -> str:
    """The SHA-256 of all tensors of a module of either framework."""
    leaves = open_container(module).leaves
    return hashes.of_arrays((name, to_numpy(name, leaf)) for name, leaf in leaves.items())


def _outputs(outputs: Outputs) -> str | None:
    """The choice of outputs in words."""
    if outputs is None:
        return None
    if isinstance(outputs, Mapping):
        return ", ".join(f"{name} = {other}" for name, other in outputs.items())
    return getattr(outputs, "__name__", "function")
