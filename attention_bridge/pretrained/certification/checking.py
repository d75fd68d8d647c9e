"""The check of a certificate, without a network: one finding for each part."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from attention_bridge.errors import REFUSALS, InputError, require
from attention_bridge.parity.certificates import Certificate
from attention_bridge.parity.certificates.checking import Finding, compared, consistency, file_findings
from attention_bridge.pretrained.certification.conversion import certify_conversion
from attention_bridge.pretrained.certification.recipe import Recipe

SCHEMA = "schema"
REPETITION = "repetition"
NEEDS_MODELS = (
    "its models are in Python: --models FILE.py:FUNCTION gives a function that returns certify(...) of them"
)


def check_certificate(
    path: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    quick: bool = False,
    models: Callable[[], Certificate] | None = None,
) -> list[Finding]:
    """Check a certificate: its consistency, the SHA-256 of its files, and the comparison, which is repeated.

    Args:
        path: the certificate.
        root: directory that the paths in it are relative to; None for the certificate's own.
        quick: whether to run no model and convert no tensor.
        models: for a certificate of two modules, a function that returns `certify(...)` of them; None for none.

    Returns:
        One finding for each part that was checked.

    Raises:
        InputError: there is no such file, or it is no certificate of this schema; `models` is given for another kind.
    """
    path = Path(path)
    certificate = Certificate.read(path)
    content = certificate.content
    if models is not None and content["kind"] != "modules":
        raise InputError(f"--models is for a certificate of modules, but {path} is of {content['kind']}")
    place = path.absolute().parent if root is None else Path(root).absolute()
    findings = [Finding(SCHEMA, True, f"{content['schema']}, of {content['kind']}")]
    files = list(file_findings(certificate, place)) if content["kind"] == "conversion" else []
    findings += [*files, *consistency(certificate)]
    if quick:
        return findings
    if not all(each.ok for each in files):
        return [*findings, Finding(REPETITION, False, "not run, because the files are not those certified")]
    if content["kind"] == "modules" and models is None:
        return [*findings, Finding(REPETITION, False, f"not run: {NEEDS_MODELS}")]
    try:
        again = models() if models is not None else _repeated(certificate, place)
    except REFUSALS as error:
        first = str(error).partition("\n")[0]
        return [*findings, Finding(REPETITION, False, f"not possible: {first}")]
    return [*findings, *compared(certificate, again)]


def _repeated(certificate: Certificate, root: Path) -> Certificate:
    """Repeat the comparison of a certificate from its own recipe."""
    subject = certificate.content["subject"]
    if certificate.content["kind"] == "conversion":
        return certify_conversion(Recipe.recorded(subject, root), root)
    require(("torch", "jax", "flax"), extra="torch,jax")
    from attention_bridge.catalogue import select
    from attention_bridge.parity.certificates.mechanisms import certify_mechanisms
    from attention_bridge.parity.proof import check_dtypes

    mechanisms = select(subject["names"])
    return certify_mechanisms(mechanisms, check_dtypes(subject["dtypes"]), subject["platform"])
