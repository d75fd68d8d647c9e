"""The arguments of a conversion, as a part of its certificate."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from attention_bridge.parity.certificates.layouts import described, restored
from attention_bridge.weights.layout import Layout


@dataclass(frozen=True)
class Recipe:
    """A conversion that was done, with all that its certificate needs.

    Attributes:
        source, target: the files, indexes or directories.
        source_layout, target_layout: the layouts, or their names.
        config: file or directory of the configuration; None for the one beside the source.
        model_type: type of the model; None for the one in the configuration.
        ignore: fields of the configuration that are not read.
        axes: sizes of axes that the shapes do not give.
        places: paths in the Keras model, as for `convert_checkpoint`.
        target_config: configuration that the conversion has written beside the target; None for none.
    """

    source: Path
    target: Path
    source_layout: Layout | str
    target_layout: Layout | str
    config: Path | None = None
    model_type: str | None = None
    ignore: tuple[str, ...] = ()
    axes: Mapping[str, int] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)
    target_config: Path | None = None

    def options(self, root: Path) -> dict[str, Any]:
        """The options as a part of a certificate, with paths relative to `root`."""
        return {
            "config": None if self.config is None else relative(self.config, root),
            "model_type": self.model_type,
            "ignore": list(self.ignore),
            "axes": dict(self.axes),
            "places": dict(self.places),
            "target_config": None if self.target_config is None else relative(self.target_config, root),
        }

    def layouts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Both layouts as parts of a certificate.

        Raises:
            InputError: a layout of one's own cannot be written as TOML.
        """
        return described(self.source_layout), described(self.target_layout)

    @classmethod
    def recorded(cls, subject: Mapping[str, Any], root: Path) -> Recipe:
        """The recipe of a certificate.

        Args:
            subject: its subject.
            root: directory that its paths are relative to.

        Raises:
            InputError: a layout is unknown.
        """
        source, target, config = subject["source"], subject["target"], subject["config"]
        written = subject["target_config"]
        return cls(
            root / source["path"],
            root / target["path"],
            restored(source["layout"]),
            restored(target["layout"]),
            None if config is None else root / config,
            subject["model_type"],
            tuple(subject["ignore"]),
            subject["axes"],
            subject["places"],
            None if written is None else root / written,
        )


def relative(path: Path, root: Path) -> str:
    """A path relative to `root`, with slashes; an absolute one if it is on another drive."""
    try:
        return Path(os.path.relpath(path, root)).as_posix()
    except ValueError:
        return path.absolute().as_posix()
