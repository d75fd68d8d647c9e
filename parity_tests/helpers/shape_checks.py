"""Whether the tests run with shape checks around every annotated function."""

import sys


def are_on() -> bool:
    """Whether jaxtyping's import hook is installed, as by `make test-shapes` alone."""
    return any(type(finder).__module__.startswith("jaxtyping") for finder in sys.meta_path)
