"""Reader of a model's configuration: its layout, and sizes of axes that the tensor shapes do not give.

The root of the package registers the reader with `read_with`: model families import layouts, so this package cannot
import model families.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from attention_bridge.weights.layout import Layout


class Configured(Protocol):
    """Result of reading a configuration."""

    @property
    def layout(self) -> Layout:
        """The layout of the checkpoint's tensors."""

    @property
    def axes(self) -> Mapping[str, int]:
        """Sizes of axes that the shapes do not give."""


ConfigReader = Callable[[Mapping[str, Any], Collection[str]], Configured]
_finders: list[Callable[[], ConfigReader]] = []


def read_with(find: Callable[[], ConfigReader]) -> None:
    """Register the function that returns the configuration reader; it is called at each `read_config`."""
    _finders[:] = [find]


def read_config(config: Mapping[str, Any], names: Collection[str]) -> Configured:
    """Read a model's configuration.

    Args:
        config: the model's configuration, the content of `config.json`.
        names: names of the checkpoint's tensors.
    """
    return _finders[0]()(config, names)
