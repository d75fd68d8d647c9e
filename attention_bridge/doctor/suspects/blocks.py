"""Mistakes around attention: norms, activations and residuals."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial

from attention_bridge.doctor.port import Port
from attention_bridge.doctor.suspects.suspect import Suspect
from attention_bridge.oracles.common import ACTIVATIONS

NORMS = ("attention_norm", "ffn_norm")
EPSILONS = (1e-3, 1e-5, 1e-6, 1e-12)
FORMS = {"relu": "ReLU", "gelu": "GELU by erf", "gelu_tanh": "GELU by tanh"}


def has_norm(port: Port) -> bool:
    """Whether the layer has a norm."""
    return any(f"{norm}.weight" in port.weights for norm in NORMS)


def other_eps(port: Port, *, eps: float) -> Iterator[Port]:
    """Plant another eps in the norms."""
    if has_norm(port) and port.setting.norm_eps != eps:
        yield port.set(norm_eps=eps)


def other_norm(port: Port, *, norm: str) -> Iterator[Port]:
    """Plant the other kind of norm; RMSNorm with and without the bias."""
    if has_norm(port) and port.setting.norm != norm:
        yield port.set(norm=norm)
        if norm == "rms":
            yield port.drop(*(f"{name}.bias" for name in NORMS)).set(norm=norm)


def other_offset(port: Port, *, offset: bool) -> Iterator[Port]:
    """Plant norms that multiply by weight instead of 1 + weight, or the reverse."""
    if has_norm(port) and port.setting.norm_offset != offset:
        yield port.set(norm_offset=offset)


def without_norm(port: Port, *, name: str) -> Iterator[Port]:
    """Plant a missing norm."""
    if f"{name}.weight" in port.weights:
        yield port.drop(f"{name}.weight", f"{name}.bias")


def norms_exchanged(port: Port) -> Iterator[Port]:
    """Plant two norms with exchanged weights."""
    if all(f"{name}.weight" in port.weights for name in NORMS):
        kept = port.drop(*(f"{name}.{kind}" for name in NORMS for kind in ("weight", "bias")))
        one, other = NORMS
        swap = {one: other, other: one}
        moved = {name: name.partition(".") for name in port.weights if name not in kept.weights}
        yield kept.put(
            {f"{swap[norm]}.{kind}": port.weights[name] for name, (norm, _, kind) in moved.items()}
        )


def unbiased(port: Port) -> Iterator[Port]:
    """Plant a variance divided by n - 1."""
    if has_norm(port) and port.setting.norm == "layer":
        yield replace(port, unbiased=True)


def other_place(port: Port) -> Iterator[Port]:
    """Plant post-norm instead of pre-norm, or the reverse."""
    if has_norm(port):
        yield port.set(norm_first=not port.setting.norm_first)


def without_residual(port: Port) -> Iterator[Port]:
    """Plant missing residuals."""
    if port.is_block:
        yield replace(port, residual=False)


def other_activation(port: Port, *, activation: str) -> Iterator[Port]:
    """Plant another activation in the feed-forward network."""
    if "ffn.up_proj.weight" in port.weights and port.setting.activation != activation:
        yield port.set(activation=activation)


BLOCKS: tuple[Suspect, ...] = (
    *(
        Suspect(
            f"{FORMS.get(activation, activation)} as activation",
            f"uses {FORMS.get(activation, activation)} in its feed-forward network",
            "give the port the activation of the reference",
            partial(other_activation, activation=activation),
        )
        for activation in ACTIVATIONS
    ),
    *(
        Suspect(
            f"norm eps {eps:.0e}",
            f"has eps = {eps:.0e} in its norms",
            "give the port the eps of the reference",
            partial(other_eps, eps=eps),
        )
        for eps in EPSILONS
    ),
    Suspect(
        "RMSNorm for LayerNorm",
        "divides by the root mean square without subtracting the mean first",
        "use LayerNorm",
        partial(other_norm, norm="rms"),
    ),
    Suspect(
        "LayerNorm for RMSNorm",
        "subtracts the mean although it should only divide by the root mean square",
        "use RMSNorm",
        partial(other_norm, norm="layer"),
    ),
    Suspect(
        "norm by weight, not 1 + weight",
        "multiplies by weight instead of 1 + weight in its norms",
        "add 1 to the weights of the norms",
        partial(other_offset, offset=False),
    ),
    Suspect(
        "norm by 1 + weight, not weight",
        "multiplies by 1 + weight instead of weight in its norms",
        "do not add 1 to the weights of the norms",
        partial(other_offset, offset=True),
    ),
    *(
        Suspect(f"{name} missing", f"has no {name}", f"add {name}", partial(without_norm, name=name))
        for name in NORMS
    ),
    Suspect(
        "norms exchanged",
        "has the weights of attention_norm in ffn_norm and the reverse",
        "exchange the weights of the two norms",
        norms_exchanged,
    ),
    Suspect(
        "variance over n - 1",
        "divides the variance in LayerNorm by n - 1",
        "divide the variance by n",
        unbiased,
    ),
    Suspect(
        "pre-norm and post-norm exchanged",
        "exchanges pre-norm, x + f(norm(x)), and post-norm, norm(x + f(x))",
        "move the norms to the other side of attention and feed-forward network",
        other_place,
    ),
    Suspect("residuals missing", "does not add its residuals", "add the residuals", without_residual),
)
