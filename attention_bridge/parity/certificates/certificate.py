"""A certificate in a JSON file; the same comparison on the same machine gives the same bytes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from attention_bridge.checkpoints.atomic import replacing
from attention_bridge.checkpoints.faults import writing
from attention_bridge.errors import InputError, cut
from attention_bridge.parity.certificates import schema
from attention_bridge.parity.certificates.environment import environment
from attention_bridge.parity.certificates.verdict import verdict

LARGEST = 2**26  # bytes
INFINITE = "infinite"  # JSON has no such number
NUMBERS = ("relative", "ulp", "output", "gradient")  # fields that may be infinite


@dataclass(frozen=True)
class Certificate:
    """The figures of a comparison, and all that is needed to repeat it.

    Attributes:
        content: the fields of the file, as JSON holds them; `docs/certificates.md` describes them.
    """

    content: Mapping[str, Any]

    @classmethod
    def made(
        cls,
        kind: str,
        subject: Mapping[str, Any],
        weights: Mapping[str, str],
        runs: Sequence[Mapping[str, Any]],
        of_jax: str | None,
        faults: Sequence[str] = (),
    ) -> Self:
        """A certificate with the present environment and the verdict that follows from the figures.

        Args:
            kind: one of `schema.KINDS`.
            subject: models, files or mechanisms that were compared.
            weights: SHA-256 of the tensors of each side.
            runs: figures of each comparison.
            of_jax: platform that JAX runs on; None if no model ran.
            faults: differences besides the figures, one sentence each.
        """
        content = {
            "schema": schema.SCHEMA,
            "kind": kind,
            "subject": subject,
            "weights": weights,
            "environment": environment(of_jax),
            "runs": runs,
            "faults": list(faults),
        }
        return cls({**content, "verdict": verdict(content)})

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Self:
        """Read a certificate.

        Raises:
            InputError: there is no such file, or it is no certificate of this schema.
        """
        path = Path(path)
        try:
            if path.stat().st_size > LARGEST:
                raise InputError(f"{path} must have at most {LARGEST} bytes, got {path.stat().st_size}")
            content = json.loads(path.read_bytes(), parse_constant=_refuse, object_pairs_hook=_unique)
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}") from error
        except (ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                cut(f"{path} must be a certificate in JSON, but it is no JSON: {error}")
            ) from error
        content = _decoded(content)
        schema.check(content, str(path))
        return cls(content)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the certificate; an existing one is replaced only when the new one is complete.

        Raises:
            CheckpointError: there is no such directory.
            DiskError: the system cannot write.
            InputError: the name does not end in .json, or there is a file of that name that is no certificate.
        """
        path = check_path(path)
        with replacing(path) as temporary, writing(path):
            temporary.write_bytes(self.text.encode())

    @property
    def ok(self) -> bool:
        """Whether everything compared is equal up to rounding."""
        return bool(self.content["verdict"]["ok"])

    @property
    def text(self) -> str:
        """The text of the file."""
        return json.dumps(_encoded(self.content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def __str__(self) -> str:
        return f"{self.content['kind']}: {self.content['verdict']['sentence']}"


def check_path(path: str | os.PathLike[str]) -> Path:
    """The path of a certificate to write, if it replaces nothing but an older certificate.

    Raises:
        InputError: the name does not end in .json, there is no such directory, or another file has the name.
    """
    path = Path(path)
    if path.suffix != ".json":
        raise InputError(f"the name of a certificate must end in .json, got {path}")
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: {path.parent} is not a directory")
    if os.path.lexists(path):
        try:
            Certificate.read(path)
        except InputError as error:
            raise InputError(f"{path} exists and is no certificate; it was left as it is") from error
    return path


def _encoded(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else INFINITE
    if isinstance(value, Mapping):
        return {name: _encoded(each) for name, each in value.items()}
    return [_encoded(each) for each in value] if isinstance(value, list | tuple) else value


def _decoded(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _decoded(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_decoded(each) for each in value]
    return math.inf if name in NUMBERS and value == INFINITE else value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(found := dict(pairs)) < len(pairs):
        raise ValueError("an object has a field twice")
    return found


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
