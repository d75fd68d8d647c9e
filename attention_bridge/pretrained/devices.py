"""Devices by name, in either framework, without using them."""

from __future__ import annotations

import re
from typing import Any

from attention_bridge.errors import InputError, require

NAME = re.compile(r"(?P<kind>[a-z]+)(:(?P<index>\d+))?")


def find_device(framework: str, device: Any) -> Any:
    """The device of a name.

    Args:
        framework: "torch" or "jax".
        device: "cpu", "cuda", "cuda:0", "mps" or a `torch.device` for PyTorch; "cpu", "gpu", "tpu", "cuda:1" or a
            `jax.Device` for JAX; None for no choice. Without a number it is the first of its kind in JAX, and the
            current one in PyTorch.

    Returns:
        A `torch.device`, a `jax.Device`, or None.

    Raises:
        InputError: there is no such device on this machine, or `device` does not name one.
    """
    if framework not in ("torch", "jax"):
        raise InputError(f"framework must be torch or jax, got {framework!r}")
    require(("torch",) if framework == "torch" else ("jax",), extra=framework)
    if device is None:
        return None
    return _torch_device(device) if framework == "torch" else _jax_device(device)


def _torch_device(device: Any) -> Any:
    import torch

    found = _torch_counts()
    names = [kind if kind in ("cpu", "mps") else f"{kind}:{i}" for kind, n in found.items() for i in range(n)]
    given = device
    if isinstance(device, torch.device):
        device = str(device)
    kind, index = _parsed(device, given, "PyTorch", names)
    if (index or 0) >= found.get(kind, 0):
        raise _absent(given, "PyTorch", names)
    return torch.device(kind) if index is None else torch.device(kind, index)


def _torch_counts() -> dict[str, int]:
    """The number of devices of each kind; counting them creates no context on them."""
    import torch

    counts = {"cpu": 1}
    for kind in ("cuda", "mps", "xpu"):
        if (module := getattr(torch, kind, None)) is not None:
            counts[kind] = module.device_count()
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is not None and accelerator.type not in counts:
        counts[accelerator.type] = torch.accelerator.device_count()
    return counts


def _jax_device(device: Any) -> Any:
    import jax

    here = list(dict.fromkeys([*_of_platform(None), *_of_platform("cpu")]))
    kinds = [each.platform for each in here]
    names = [f"{kind}:{kinds[:i].count(kind)}" for i, kind in enumerate(kinds)]
    if isinstance(device, jax.Device):
        if device not in here:
            raise _absent(device, "JAX", names)
        return device
    kind, index = _parsed(device, device, "JAX", names)
    of_kind = _of_platform(kind)
    if (index or 0) >= len(of_kind):
        raise _absent(device, "JAX", names)
    return of_kind[index or 0]


def _of_platform(platform: str | None) -> list[Any]:
    """This process's devices of a platform, the default one for None; none if JAX cannot use the platform."""
    import jax

    try:
        return jax.local_devices(backend=platform)
    except (RuntimeError, AssertionError):  # the latter where JAX can start no platform at all
        return []


def _parsed(text: Any, given: Any, framework: str, names: list[str]) -> tuple[str, int | None]:
    """The kind and the number in a device's name."""
    match = NAME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise InputError(f"device must be one of {', '.join(names) or 'none'} for {framework}, got {given!r}")
    return match["kind"], None if match["index"] is None else int(match["index"])


def _absent(given: Any, framework: str, names: list[str]) -> InputError:
    shown = repr(given) if isinstance(given, str) else str(given)
    return InputError(
        f"device {shown} is not on this machine: {framework} finds {', '.join(names) or 'none'}"
    )
