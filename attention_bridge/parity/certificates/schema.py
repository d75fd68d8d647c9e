"""The fields of a certificate and their types."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from attention_bridge.errors import InputError, cut, printable

SCHEMA = "attention-bridge/certificate/1"
KINDS = ("conversion", "mechanisms", "modules")
HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Maybe:
    """A value of this form, or null."""

    form: Any


@dataclass(frozen=True)
class Each:
    """An object with any names, whose values have this form."""

    form: Any


@dataclass(frozen=True)
class Is:
    """A single value: a test, and the words for values that pass it."""

    words: str
    test: Callable[[Any], bool]


TEXT = Is("text", lambda x: isinstance(x, str))
BOOLEAN = Is("true or false", lambda x: isinstance(x, bool))
COUNT = Is("an integer of at least 0", lambda x: type(x) is int and x >= 0)
NUMBER = Is("a number of at least 0", lambda x: type(x) in (int, float) and x >= 0)
SHA256 = Is(
    "a SHA-256 in 64 hexadecimal digits", lambda x: isinstance(x, str) and HASH.fullmatch(x) is not None
)
OPTION = Is(
    "text, a number, true, false or null", lambda x: x is None or isinstance(x, str | int | float | bool)
)

ERROR = {"relative": NUMBER, "ulp": NUMBER, "tensor": TEXT}
ERRORS = {
    "torch": ERROR,
    "jax": ERROR,
    "torch against jax": ERROR,
    "tensors": COUNT,
    "elements": COUNT,
    "same_bits": COUNT,
    "other_zeros": COUNT,
}
RUN = {
    "name": TEXT,
    "dtype": TEXT,
    "seeds": Each(Maybe(COUNT)),
    "inputs": Each(SHA256),
    "bound": {
        "output": NUMBER,
        "gradient": NUMBER,
        "derivation": TEXT,
        "unit_roundoff": NUMBER,
        "terms": COUNT,
        "reference_errors": Maybe({"output": NUMBER, "gradient": NUMBER}),
    },
    "errors": {"output": Maybe(ERRORS), "attention map": Maybe(ERRORS), "gradient": Maybe(ERRORS)},
    "results": {"torch": SHA256, "jax": SHA256, "reference": SHA256},
    "top1": Maybe({"positions": COUNT, "equal": COUNT}),
    "ok": BOOLEAN,
}
ENVIRONMENT = {
    "python": TEXT,
    "versions": Each(Maybe(TEXT)),
    "machine": TEXT,
    "processor": TEXT,
    "processors": Maybe(COUNT),
    "torch_threads": Maybe(COUNT),
    "variables": Each(Maybe(TEXT)),
    "devices": Maybe({"torch": TEXT, "jax": TEXT}),
}
LAYOUT = {"name": TEXT, "toml": Maybe(TEXT)}
END = {"path": TEXT, "format": TEXT, "layout": LAYOUT, "files": Each(SHA256), "tensors": COUNT}
SUBJECTS: Mapping[str, Any] = {
    "conversion": {
        "source": END,
        "target": END,
        "config": Maybe(TEXT),
        "model_type": Maybe(TEXT),
        "ignore": [TEXT],
        "axes": Each(COUNT),
        "places": Each(TEXT),
        "target_config": Maybe(TEXT),
        "not_converted": Each(TEXT),
        "model": Maybe(TEXT),
        "no_model": Maybe(TEXT),
    },
    "mechanisms": {"names": [TEXT], "dtypes": [TEXT], "platform": TEXT},
    "modules": {
        "torch": TEXT,
        "jax": TEXT,
        "platform": TEXT,
        "layout": Maybe(LAYOUT),
        "names": Each(TEXT),
        "outputs": Maybe(TEXT),
        "arguments": Each(OPTION),
    },
}
WHOLE = {
    "schema": TEXT,
    "kind": TEXT,
    "subject": SUBJECTS,
    "weights": Each(SHA256),
    "environment": ENVIRONMENT,
    "runs": [RUN],
    "faults": [TEXT],
    "verdict": {"ok": BOOLEAN, "sentence": TEXT},
}


def check(content: Any, file: str) -> None:
    """Check that a certificate has all fields of its kind and no others.

    Args:
        content: the content of the file.
        file: its name, for messages.

    Raises:
        InputError: a field is missing, unknown or of a wrong type, or the schema is another one.
    """
    if not isinstance(content, Mapping) or "schema" not in content:
        raise InputError(f"{file} must be a certificate, a JSON object with a field schema; it has none")
    if content["schema"] != SCHEMA:
        raise InputError(
            cut(
                f"{file} must have the schema {SCHEMA}, got {content['schema']!r}; use the version that wrote it"
            )
        )
    if content.get("kind") not in KINDS:
        raise InputError(cut(f"{file} must have a kind of {', '.join(KINDS)}, got {content.get('kind')!r}"))
    _check(content, {**WHOLE, "subject": SUBJECTS[content["kind"]]}, "", file)


def _check(value: Any, form: Any, where: str, file: str) -> None:
    def fail(expected: str) -> InputError:
        return InputError(cut(printable(f"{file}: {where} must be {expected}, got {value!r:.60}")))

    if isinstance(form, Maybe):
        if value is not None:
            _check(value, form.form, where, file)
    elif isinstance(form, Is):
        if not form.test(value):
            raise fail(form.words)
    elif isinstance(form, list):
        if not isinstance(value, list):
            raise fail("a list")
        for number, each in enumerate(value):
            _check(each, form[0], f"{where}[{number}]", file)
    elif not isinstance(value, Mapping):
        raise fail("an object")
    elif isinstance(form, Each):
        for name, each in value.items():
            _check(each, form.form, _inside(where, name), file)
    else:
        for name in (*form, *value):
            if name not in value:
                raise InputError(cut(f"{file} lacks the field {_inside(where, name)}; certify again"))
            if name not in form:
                raise InputError(cut(printable(f"{file} has an unknown field {_inside(where, name)}")))
        for name, each in value.items():
            _check(each, form[name], _inside(where, name), file)


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
