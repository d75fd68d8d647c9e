"""Packages that only some commands need."""

from collections.abc import Sequence
from importlib.util import find_spec

from attention_bridge.errors import InputError


def require(packages: Sequence[str], *, extra: str) -> None:
    """Raise unless all packages are installed.

    Args:
        packages: names as they are imported.
        extra: what to install to have them all.

    Raises:
        InputError: some are missing.
    """
    if missing := [name for name in packages if find_spec(name) is None]:
        raise InputError(
            f"this needs packages that are not installed: {', '.join(missing)}; "
            f"install them with: pip install 'attention-bridge[{extra}]'"
        )
