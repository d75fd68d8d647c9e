"""Bad arguments, one at a time, to every class of the catalogue: refused alike in both mirrors, by their own checks."""

import inspect
import math
from collections import Counter
from functools import partial
from pathlib import Path
from types import UnionType
from typing import get_args

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention
import torch_attention
from attention_bridge import instances
from attention_bridge.building import build, jax_shapes
from attention_bridge.catalogue import CATALOGUE, Part

pytestmark = pytest.mark.usefixtures("as_shipped")

BOUND = 10  # fewer may be answered otherwise, of some thousands
PACKAGES = {"torch": torch_attention, "jax": jax_attention}
ROOTS = {mirror: str(Path(package.__file__).parent) for mirror, package in PACKAGES.items()}
REFUSALS = (TypeError, ValueError, NotImplementedError)
NOT_CHECKED = ("self", "factory", "rngs", "dtype", "param_dtype", "device")
BAD = {
    int: (0.5, 8.0, -8, True, "8", math.nan, [8]),
    float: ("x", True, math.nan, [0.5]),
    bool: ("no", 2, 0.0, [True]),
}
BAD_PARTS = ("x", 2, [1])


def bad_values(name, annotation):
    """What may not stand for an argument with that annotation."""
    if isinstance(annotation, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        return BAD.get(kinds[0], BAD_PARTS)
    more = (-0.1, 1.0) if name == "dropout" else (0,) if name.endswith(("_dim", "_heads")) else ()
    return (*BAD.get(annotation, BAD_PARTS), None, *more)


def answer(mirror, call):
    """The error that a call ends in, and whether this mirror's own checks raised it."""
    try:
        call()
    except Exception as error:
        last = error.__traceback__
        while last.tb_next:
            last = last.tb_next
        own = isinstance(error, REFUSALS) and last.tb_frame.f_code.co_filename.startswith(ROOTS[mirror])
        return own, type(error).__name__, str(error)
    return False, "no error", ""


def parts(mechanism):
    """The classes that build the mechanism."""
    found = [mechanism.module]
    for part in found:
        found += [x for x in part.arguments.values() if isinstance(x, Part)]
    return found


def constructions():
    """Each class of the catalogue with each argument, and what may not stand for it."""
    seen = set()
    for part in (part for mechanism in CATALOGUE for part in parts(mechanism)):
        made = getattr(torch_attention, part.name, None)
        if not inspect.isclass(made) or part.name in seen:
            continue
        seen.add(part.name)
        for name, parameter in inspect.signature(made.__init__).parameters.items():
            if name not in NOT_CHECKED and parameter.kind not in (
                parameter.VAR_POSITIONAL,
                parameter.VAR_KEYWORD,
            ):
                for bad in bad_values(name, parameter.annotation):
                    yield part, name, bad


def report(failures, count):
    """Print how many were answered otherwise, and the kinds of the first of them."""
    print(f"{len(failures)} of {count} calls are not refused alike")
    for failure in failures[:60]:
        print(*failure, sep=" | ")
    return dict(Counter(failure[0] for failure in failures).most_common(10))


def test_every_constructor_refuses_what_no_argument_can_be():
    failures, count, inner = [], 0, {}
    for part, name, bad in constructions():
        count += 1
        answers = {}
        for mirror in PACKAGES:
            options = {"device": "meta"} if mirror == "torch" else {"rngs": nnx.Rngs(0)}
            if (part.name, mirror) not in inner:
                inner[part.name, mirror] = {
                    key: build(x, f"{mirror}_attention", options) if isinstance(x, Part) else x
                    for key, x in part.arguments.items()
                }
            made = getattr(PACKAGES[mirror], part.name)
            accepted = inspect.signature(made.__init__).parameters
            extra = {key: x for key, x in options.items() if key in accepted}
            arguments = {**inner[part.name, mirror], name: bad, **extra}
            answers[mirror] = answer(mirror, partial(made, **arguments))
        if not answers["torch"][0] or answers["torch"] != answers["jax"]:
            failures.append((part.name, name, repr(bad), answers["torch"], answers["jax"]))
    kinds = report(failures, count)
    assert len(failures) < BOUND, kinds


def bad_calls(mechanism, given):
    """For each argument of a call what may not stand for it, as PyTorch and as JAX are given it."""
    for name in mechanism.inputs:
        x = given[name]
        for fault, wrong in {
            "one axis less": x[0],
            "one axis more": x[None],
            "integers": x.astype(np.int32),
            "booleans": x > 0,
        }.items():
            yield name, fault, torch.from_numpy(np.ascontiguousarray(wrong)), jnp.asarray(wrong)
        for wrong in (None, "x", 1.0, [1.0], (2, 3)):
            yield name, repr(wrong), wrong, wrong
    for name in mechanism.masks:
        yield name, "a string", "x", "x"
        yield name, "numbers", torch.ones(2, 1, 1, 3), jnp.ones((2, 1, 1, 3))
    if mechanism.weights:
        for wrong in ("no", 1, 0.0, None):
            yield "need_weights", repr(wrong), wrong, wrong


def test_every_call_refuses_what_no_argument_can_be():
    failures, count, foreign = [], 0, []
    for mechanism in CATALOGUE:
        torch_module = build(mechanism.module, "torch_attention", {"device": "meta"}).eval()
        jax_module = jax_shapes(mechanism.module, {})
        given = {
            name: x.astype(np.float32) if instances.is_float(x) else x
            for name, x in instances.inputs(mechanism, "none").items()
        }
        as_torch = {name: torch.from_numpy(np.array(x)) for name, x in given.items()}
        as_jax = {name: jnp.asarray(x) for name, x in given.items()}
        for name, fault, torch_x, jax_x in bad_calls(mechanism, given):
            count += 1
            torch_answer = answer("torch", partial(torch_module, **{**as_torch, name: torch_x}))
            jax_answer = answer("jax", partial(jax_module, **{**as_jax, name: jax_x}))
            if not torch_answer[0] or torch_answer != jax_answer:
                failures.append((mechanism.name, name, fault, torch_answer, jax_answer))
        for name in (*mechanism.inputs, *mechanism.tokens):
            count += 3
            numpy = answer("torch", partial(torch_module, **{**as_torch, name: given[name]}))
            others = (
                answer("torch", partial(torch_module, **{**as_torch, name: as_jax[name]})),
                answer("jax", partial(jax_module, **{**as_jax, name: as_torch[name]})),
            )
            for kind, found in (("numpy", numpy), ("JAX", others[0]), ("PyTorch", others[1])):
                if found[:2] != (True, "TypeError") or (kind == "numpy" and "from_numpy" not in found[2]):
                    foreign.append((mechanism.name, name, f"an array of {kind}", found))
    kinds = report([*failures, *foreign], count)
    assert len(failures) + len(foreign) < BOUND, kinds
