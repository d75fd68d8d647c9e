"""Errors of the Hugging Face Hub's client in one sentence: the reason and the remedy."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from attention_bridge.checkpoints.faults import one_line
from attention_bridge.errors import CheckpointError, DiskError

LOGIN = "log in with `hf auth login`, or set HF_TOKEN"
# Exceptions without a network, by name: each version of huggingface_hub has another HTTP client.
UNREACHABLE = ("TransportError", "ConnectionError", "Timeout", "TimeoutError", "gaierror", "SSLError")
STATUS = {
    401: f"the token is missing or not valid (401): {LOGIN}",
    403: "the token may not read it (403): use a token with the permission to read this model",
    404: "it has no such file (404): check the name and the revision",
    429: "it received too many requests (429): try again later, or log in with `hf auth login`",
}
FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def explained(text: str, name: str, revision: str | None) -> Iterator[None]:
    """Convert exceptions of the Hugging Face Hub's client into a `CheckpointError` or `DiskError`.

    Args:
        text: source that the caller gave.
        name: name of the model.
        revision: branch, tag or commit; None for the default branch.

    Raises:
        CheckpointError: the block raised any `Exception` but an I/O error.
        DiskError: the download cannot be written.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:  # the client raises dozens of types
        if reason := _disk(error):
            raise DiskError(f"{text} cannot be downloaded: {reason}") from error
        raise CheckpointError(
            f"{text} is not a local directory, and the Hugging Face Hub does not provide it: "
            f"{_reason(error, name, revision)}"
        ) from error


def _reason(error: Exception, name: str, revision: str | None) -> str:
    """The reason of an error, and the remedy."""
    from huggingface_hub import errors

    page = f"https://huggingface.co/{name}"
    if isinstance(error, errors.GatedRepoError):
        return f"it is gated: accept its conditions at {page}, then {LOGIN}"
    if isinstance(error, getattr(errors, "DisabledRepoError", ())):
        return "its owner or the Hugging Face Hub has disabled it"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"it has no model of this name, or a private one: check the name, or {LOGIN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name} has no revision {revision!r}: give a branch, tag or commit of {page}/tree/main"
    if isinstance(error, errors.HFValidationError):
        return f"{name!r} is no name of a model: expected 'name' or 'owner/name'"
    chain = list(_chain(error))
    if any(isinstance(each, errors.OfflineModeIsEnabled) for each in chain):
        return _not_cached("HF_HUB_OFFLINE is set", name, revision, "unset it, or ")
    for each in chain:
        status = getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(status, int):
            return STATUS.get(status, f"its server answers with status {status}: try again later")
    for each in chain:
        if {kind.__name__ for kind in type(each).__mro__}.intersection(UNREACHABLE):
            said = one_line(each)[:60]
            return _not_cached(
                f"there is no connection to it ({said})", name, revision, "check the network, or "
            )
    if isinstance(error, errors.LocalEntryNotFoundError):
        return _not_cached("there is no connection to it", name, revision, "check the network, or ")
    if isinstance(error, errors.EntryNotFoundError):
        return STATUS[404]
    return one_line(error)


def _not_cached(why: str, name: str, revision: str | None, remedy: str) -> str:
    option = "" if revision is None else f" --revision {revision}"
    return f"{why}, and its cache lacks the model: {remedy}run `hf download {name}{option}` first"


def _disk(error: Exception) -> str | None:
    """The reason if the cache cannot be written, with the remedy; None for another error."""
    from huggingface_hub import constants

    for each in _chain(error):
        code = each.errno if isinstance(each, OSError) else None
        if code in FULL or "no space left on device" in str(each).lower():
            return f"no space is left in the cache {constants.HF_HUB_CACHE}: free some, or set HF_HOME to another disk"
        if code in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"the cache {constants.HF_HUB_CACHE} is not writable: set HF_HOME to a directory that is"
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and its causes."""
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or found.__context__
