"""The tensors of a checkpoint, as readers of configurations see them: names, shapes, and whether two are equal."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import numpy as np

from attention_bridge.weights.layout import Layout

Read = Callable[[str], np.ndarray]


class Tensors(Collection[str]):
    """Names of a checkpoint's tensors in the spelling of a layout, with their shapes and values if known.

    Args:
        given: names of the tensors, or a mapping from names to objects with a `shape`.
        read: function that reads the values of the tensor of a name; None if there are no values.
        spelled: names in a layout's spelling, to the names that were given; None for the given ones.
    """

    def __init__(
        self, given: Collection[str], read: Read | None = None, spelled: Mapping[str, str] | None = None
    ) -> None:
        self.given = given
        self.read = read
        self.spelled = {name: name for name in given} if spelled is None else dict(spelled)

    @classmethod
    def of(cls, given: Collection[str]) -> Tensors:
        """The tensors of these names; `given` itself if it is a `Tensors`."""
        return given if isinstance(given, Tensors) else cls(given)

    def spell(self, layout: Layout) -> Tensors:
        """The same tensors with the names that the layout's rules use."""
        return Tensors(self.given, self.read, {layout.canonical(name): name for name in self.given})

    def shape(self, name: str) -> tuple[int, ...] | None:
        """The shape of a tensor; None if there is no such tensor or only names are known."""
        if name not in self.spelled or not isinstance(self.given, Mapping):
            return None
        given: Any = self.given[self.spelled[name]]
        return tuple(given.shape)

    def rows(self, weight: str, module: str) -> int | None:
        """Number of outputs of a linear layer.

        Args:
            weight: name of its weight in the file.
            module: path of the layer in a mirror's model.

        Returns:
            The rows of the weight, or the columns of a kernel of the JAX mirror; None if there is none.
        """
        for name, axis in ((weight, 0), (f"{module}.weight", 0), (f"{module}.kernel", -1)):
            shape = self.shape(name)
            if shape is not None and len(shape) == 2:
                return shape[axis]
        return None

    def differ(self, one: str, other: str) -> bool:
        """Whether both tensors are there with different values; False if no values are known."""
        if one not in self or other not in self or self.read is None:
            return False
        if self.shape(one) != self.shape(other):
            return True
        return not np.array_equal(self.read(self.spelled[one]), self.read(self.spelled[other]))

    def has_embeddings(self, name: str) -> bool:
        """Whether there is a token embedding, by the end of its name in the file or by its name in a mirror."""
        return self.ends_with(name) or self.starts_with("token_embedding.")

    def has_head(self, name: str) -> bool:
        """Whether there is an output head, by its name in the file or in a mirror."""
        return self.ends_with(name) or self.starts_with("head.")

    def ends_with(self, end: str) -> bool:
        """Whether the name of a tensor has this end."""
        return any(name.endswith(end) for name in self.spelled)

    def starts_with(self, start: str) -> bool:
        """Whether the name of a tensor has this start."""
        return any(name.startswith(start) for name in self.spelled)

    def __contains__(self, name: object) -> bool:
        return name in self.spelled

    def __iter__(self) -> Iterator[str]:
        return iter(self.spelled)

    def __len__(self) -> int:
        return len(self.spelled)
