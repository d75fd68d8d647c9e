"""One variant: a reference, its port with one mistake, and the right answer; and the doctor's answer."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from attention_bridge import diagnose
from attention_bridge.weights import transfer
from parity_tests.helpers.doctor_cases import jax_models, torch_models
from parity_tests.helpers.doctor_cases.inputs import (
    PADDED,
    SEEN,
    SOURCE_SEEN,
    SOURCES,
    TOKENS,
    jax_decoding,
    torch_decoding,
)
from parity_tests.helpers.doctor_cases.shape import Shape

DTYPES = {"float32": (torch.float32, jnp.float32), "bfloat16": (torch.bfloat16, jnp.bfloat16)}
ARRAYS: dict[str, tuple[np.ndarray, ...]] = {
    "tokens": (TOKENS,),
    "padded": (PADDED, SEEN),
    "decoding": (TOKENS,),
    "pairs": (SOURCES, TOKENS, SOURCE_SEEN),
}


@dataclass(frozen=True)
class Variant:
    """A port with one mistake.

    Attributes:
        line: line of the list of mistakes that it belongs to; 0 for a right port.
        name: the mistake of the port.
        shape: the model; a pair of an encoder and a decoder.
        place: path of the first wrong submodule.
        words: pattern of the mistake's name; several are separated by `&&`, for several mistakes.
        faults: mistakes in the code of the port, by the part that has them.
        layer: number of the layer with the mistakes; None for all.
        change: function that changes the weights of the port.
        inputs: `tokens`, `padded`, `decoding` or `pairs`.
        quiet: whether the mistake vanishes in bfloat16, where the port is right.
    """

    line: int
    name: str
    shape: Shape | tuple[Shape, Shape]
    place: str = ""
    words: str = ""
    faults: Mapping[str, str] = field(default_factory=dict)
    layer: int | None = 1
    change: Callable[[Any], None] | None = None
    inputs: str = "tokens"
    quiet: bool = False


class Answer(NamedTuple):
    """An answer of the doctor: `named`, `equal`, `unexplained` or `wrong`, its sentence, and seconds of computation."""

    kind: str
    verdict: str
    seconds: float


@cache
def reference(shape, dtype):
    """The model in PyTorch with random weights."""
    model = torch_models.EncoderDecoder(*shape) if isinstance(shape, tuple) else torch_models.Model(shape)
    generator = torch.Generator().manual_seed(3)
    kind = (shape[1] if isinstance(shape, tuple) else shape).norm
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            size = 0.1 if "embed" in name or "positions" in name else 0.6 if "relative" in name else 0.2
            middle = float("norm" in name and name.endswith("weight") and kind != "gemma")
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * size + middle)
    return model.to(DTYPES[dtype][0]).eval()


def port(variant: Variant, dtype):
    """The model in JAX with the weights of the reference and the mistake."""
    shapes = variant.shape if isinstance(variant.shape, tuple) else (variant.shape,)
    kind = jax_models.EncoderDecoder if len(shapes) == 2 else jax_models.Model
    made = kind(*shapes, nnx.Rngs(0), variant.layer, **variant.faults)
    if dtype != "float32":
        wide = nnx.state(made, nnx.Param)
        nnx.update(made, jax.tree.map(lambda x: x.astype(DTYPES[dtype][1]), wide))
        for _, each in nnx.iter_modules(made):
            for name in ("dtype", "param_dtype"):
                if hasattr(each, name):
                    setattr(each, name, DTYPES[dtype][1])
    transfer(reference(variant.shape, dtype), made)
    if variant.change is not None:
        variant.change(made)
    return made


def found(variant: Variant, dtype):
    """Run the doctor, which returns its diagnosis."""
    calls = {"torch_call": torch_decoding, "jax_call": jax_decoding} if variant.inputs == "decoding" else {}
    return diagnose(reference(variant.shape, dtype), port(variant, dtype), *ARRAYS[variant.inputs], **calls)


def answer(variant: Variant, dtype) -> Answer:
    """Run the doctor on a variant and compare its answer with the right one."""
    reference(variant.shape, dtype)
    begin = time.process_time()
    diagnosis = found(variant, dtype)
    seconds = time.process_time() - begin
    return Answer(judged(variant, dtype, diagnosis), diagnosis.verdict, seconds)


def judged(variant: Variant, dtype, diagnosis) -> str:
    """The kind of an answer: right names of all mistakes at their first place, none, or a wrong one."""
    named = [each for each in diagnosis.findings if each.is_explained]
    if not diagnosis.findings:
        return "equal" if diagnosis.status == "healthy" else "unexplained"
    wanted = [] if variant.quiet and dtype == "bfloat16" else variant.words.split("&&")
    places = variant.place.split("&&")
    left = [*named]
    for words in wanted if variant.line else []:
        for each in named:
            fits = re.search(words, each.mistake) and any(re.fullmatch(place, each.place) for place in places)
            if fits and each in left:
                left.remove(each)
                break
        else:
            return "wrong" if left else "unexplained"
    if left or not variant.line:
        return "wrong" if left else "unexplained"
    return "named" if len(named) == len(diagnosis.findings) else "unexplained"
