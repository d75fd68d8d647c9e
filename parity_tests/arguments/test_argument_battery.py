"""Bad arguments, one at a time, to every function, constructor and call: both mirrors raise the same error."""

import importlib
import inspect
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

from attention_bridge.catalogue import CATALOGUE
from attention_bridge.catalogue.part import build, jax_shapes
from attention_bridge.parity import instances
from parity_tests.helpers.bad_arguments import (
    PACKAGES,
    Count,
    batter,
    checked_things,
    compare,
    foreign_arrays,
    is_checked,
)

pytestmark = pytest.mark.usefixtures("as_shipped")

THINGS = checked_things()
FUNCTIONS = sorted(path for path in THINGS["torch"] if not path.endswith("__") and path in THINGS["jax"])
CONSTRUCTORS = sorted(path for path in THINGS["torch"] if path.endswith("__init__"))
CALLS = sorted(path for path in THINGS["torch"] if path.endswith("__call__"))


def class_of(mirror, path):
    """The class whose constructor or call a path names."""
    module, name, _ = path.rsplit(".", 2)
    return getattr(importlib.import_module(f"{mirror}_attention.{module}"), name)


def both(path):
    """The function of that path in both mirrors."""
    return {mirror: THINGS[mirror][path] for mirror in PACKAGES}


def constructor(mirror, path):
    """A class, with `rngs` if it takes them."""
    made = class_of(mirror, path)
    return partial(made, rngs=nnx.Rngs(0)) if "rngs" in inspect.signature(made.__init__).parameters else made


def unready(mirror, path):
    """The call of a module without a constructor: arguments must be checked before the module is used."""
    return partial(THINGS[mirror][path], object.__new__(class_of(mirror, path)))


def test_every_function_rejects_bad_arguments():
    count = Count()
    for path in FUNCTIONS:
        batter(count, path, both(path))
    count.check()


def test_every_constructor_rejects_bad_arguments():
    count = Count()
    for path in CONSTRUCTORS:
        batter(count, path, both(path), callers={mirror: constructor(mirror, path) for mirror in PACKAGES})
    count.check()


def test_every_call_rejects_bad_arguments():
    count = Count()
    for path in CALLS:
        callers = {mirror: unready(mirror, path) for mirror in PACKAGES}
        batter(count, path, both(path), callers=callers, arrays=False)
    count.check()


def test_constructor_without_checks_is_detected(monkeypatch):
    path, count = "cross_attention.CrossAttention.__init__", Count()
    for mirror, thing in both(path).items():
        monkeypatch.setattr(class_of(mirror, path), "__init__", thing.__wrapped__)
    batter(count, path, both(path), callers={mirror: constructor(mirror, path) for mirror in PACKAGES})
    with pytest.raises(AssertionError):
        count.check()


def test_function_without_checks_is_detected():
    count = Count()
    bare = {mirror: thing.__wrapped__ for mirror, thing in both("masks.length_mask").items()}
    batter(count, "masks.length_mask", bare)
    with pytest.raises(AssertionError):
        count.check()


def wrong_shapes(given, mechanism):
    """For each array argument of a call, arrays of wrong shape with a description."""
    for name in mechanism.inputs:
        x = given[name]
        yield name, "one axis less", x[0]
        yield name, "one axis more", x[None]
        yield name, "no axis", x.ravel()[0].reshape(())
        if name != "value":
            yield name, "one feature more", np.concatenate([x, x[..., :1]], axis=-1)
    for name in mechanism.masks:
        yield name, "five axes", np.ones((1, 1, 1, 1, 1), np.bool_)
        yield name, "no axis", np.ones((), np.bool_)
        yield name, "one key more", np.ones((2, 1, 1, 97), np.bool_)
    yield "dropout_keep", "one axis", np.ones(3, np.bool_)
    yield "positions", "five axes", np.ones((1, 1, 1, 1, 1), np.int32)


@pytest.mark.parametrize("part", range(4))
def test_every_mechanism_rejects_arrays_of_wrong_shape(part):
    count = Count()
    for mechanism in CATALOGUE[part::4]:
        modules = {
            "torch": build(mechanism.module, "torch_attention", {"device": "meta"}).eval(),
            "jax": jax_shapes(mechanism.module, {}),
        }
        given = {
            name: x.astype(np.float32) if instances.is_float(x) else x
            for name, x in instances.inputs(mechanism, "none").items()
        }
        right = {
            "torch": {name: torch.from_numpy(np.array(x)) for name, x in given.items()},
            "jax": {name: jnp.asarray(x) for name, x in given.items()},
        }
        known = inspect.signature(type(modules["torch"]).forward).parameters

        def call(mirror, name, x, modules=modules, right=right):
            return modules[mirror](**{**right[mirror], name: x})

        for name, fault, x in wrong_shapes(given, mechanism):
            if name not in known:
                continue
            arrays = {"torch": torch.from_numpy(np.array(x)), "jax": jnp.asarray(x)}
            calls = {mirror: partial(call, mirror, name, arrays[mirror]) for mirror in PACKAGES}
            compare(count, (mechanism.name, name, fault), calls)
        for name in (*mechanism.inputs, *mechanism.tokens):
            calls = {mirror: partial(call, mirror, name) for mirror in PACKAGES}
            foreign_arrays(count, (mechanism.name, name), calls, np.array(given[name]))
    count.check()


# These check their arguments themselves, for all implementations at once.
ONE_DOOR = ("dot_product_attention", "dot_product_attention_weights")


def test_every_module_configuration_and_function_is_checked():
    missing = []
    for mirror, package in PACKAGES.items():
        for name, thing in vars(package).items():
            if inspect.isclass(thing) and issubclass(thing, torch.nn.Module | nnx.Module):
                parts = [x for x in ("__init__", "forward", "__call__") if x in vars(thing)]
                parts = [x for x in parts if len(inspect.signature(vars(thing)[x]).parameters) > 1]
                missing += [(mirror, name, x) for x in parts if not is_checked(vars(thing)[x])]
            elif inspect.isfunction(thing) and not is_checked(thing) and name not in ONE_DOOR:
                missing.append((mirror, name))
    assert not missing
