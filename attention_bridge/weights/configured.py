"""A model's configuration as conversion needs it: a layout, and sizes of axes that shapes do not give.

Which reader knows families of models is said by the root of the package, for families know layouts and not the other
way round.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from attention_bridge.weights.layout import Layout


class Configured(Protocol):
    """What a reader makes of a configuration."""

    @property
    def layout(self) -> Layout:
        """The layout of the checkpoint's tensors."""

    @property
    def axes(self) -> Mapping[str, int]:
        """Sizes of axes that the shapes do not give."""


ConfigReader = Callable[[Mapping[str, Any], Collection[str]], Configured]
_finders: list[Callable[[], ConfigReader]] = []


def read_with(find: Callable[[], ConfigReader]) -> None:
    """Set what finds the reader of configurations; it is called when one is read."""
    _finders[:] = [find]


def read_config(config: Mapping[str, Any], names: Collection[str]) -> Configured:
    """What a configuration says; arguments as in `attention_bridge.pretrained.families.read_config`."""
    return _finders[0]()(config, names)
