"""A model with its tokenizer, in either framework."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import numpy as np

from attention_bridge.errors import CheckpointError, InputError
from attention_bridge.pretrained import load
from attention_bridge.pretrained.config_files import read_json
from attention_bridge.pretrained.text.encoded import Encoded
from attention_bridge.pretrained.text.kinds import backbone
from attention_bridge.pretrained.text.tokenizer import Tokenizer

FRAMEWORKS = ("torch", "jax")


@dataclass(frozen=True)
class TextModel:
    """A pretrained model, its tokenizer and its configuration.

    Attributes:
        directory: directory of the model.
        framework: "torch" or "jax".
        model: module of the mirror, in evaluation mode.
        tokenizer: the directory's tokenizer; it pads on the right, and truncates to the model's longest length.
        config: content of `config.json`.
    """

    directory: Path
    framework: str
    model: Any
    tokenizer: Tokenizer
    config: dict[str, Any]

    @classmethod
    def open(
        cls,
        directory: str | os.PathLike[str],
        framework: str | None = None,
        *,
        dtype: Any = None,
        warn: Callable[[str], object] | None = None,
    ) -> Self:
        """Load the model and the tokenizer of a directory; the tokenizer first, which takes less time.

        Args:
            directory: directory of the model.
            framework: "torch" or "jax"; None for PyTorch if it is installed, else JAX.
            dtype: dtype of the weights, as in `load_pretrained`; None for the dtype of the checkpoint.
            warn: function called with one line when texts are truncated; None for `warnings.warn`.

        Raises:
            CheckpointError: a file is missing or damaged, or the model is not supported.
            ConversionError: the weights do not fit the configuration.
            InputError: a package is missing, or an argument is invalid.
        """
        name = framework or default_framework()
        if name not in FRAMEWORKS:
            raise InputError(f"framework must be torch or jax, got {name!r}")
        path = Path(directory)
        if not path.exists():
            raise CheckpointError(
                f"{path} does not exist: expected the directory of a model with its tokenizer"
            )
        tokenizer = Tokenizer.open(path, padding_side="right", **({} if warn is None else {"warn": warn}))
        config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
        model = load.load_pretrained(path, name, dtype=dtype)  # type: ignore[arg-type]
        return cls.of(path, name, model, tokenizer, config)

    @classmethod
    def of(
        cls, directory: Path, framework: str, model: Any, tokenizer: Tokenizer, config: dict[str, Any]
    ) -> Self:
        """A loaded model with a tokenizer, which truncates to the model's longest length."""
        limits = [x for x in (tokenizer.longest, longest(model)) if x is not None]
        short = replace(tokenizer, longest=min(limits, default=None), padding_side="right")
        return cls(directory, framework, model, short, config)

    @property
    def adapter(self) -> Any:
        """The module that calls models of the framework: `in_torch` or `in_jax`."""
        return import_module(f"attention_bridge.pretrained.text.in_{self.framework}")

    @property
    def vocab_size(self) -> int:
        """Number of tokens that the model knows."""
        return int(backbone(self.model).config.vocab_size)

    def run(self, function: Callable[..., Any], encoded: Encoded) -> tuple[np.ndarray, ...]:
        """Call `function(model, tokens, mask, token_types)` of `calls`; float32 results.

        Raises:
            CheckpointError: a token is outside the model's vocabulary.
            InputError: the model cannot run on these texts.
        """
        ids, mask, types = self.checked(encoded)
        config = backbone(self.model).config
        counts = (getattr(config, name, None) or 0 for name in ("num_types", "relative_types"))
        several = max(counts) > 1
        given = (ids, None if mask.all() else mask, types if several else None)
        try:
            found: tuple[np.ndarray, ...] = self.adapter.run(function, self.model, *given)
        except (NotImplementedError, ValueError) as error:
            raise InputError(str(error)) from error
        return found

    def checked(self, encoded: Encoded) -> Encoded:
        """The tokens, with padding inside the vocabulary.

        Raises:
            CheckpointError: a token is outside the model's vocabulary.
            InputError: a text has no token.
        """
        ids, mask, types = encoded
        if not mask.any(axis=1).all():
            raise InputError("the text must have at least one token, got none")
        size = self.vocab_size
        if (largest := int(ids[mask].max())) >= size:
            raise CheckpointError(
                f"{self.directory} must have a tokenizer of {size} tokens, as its model, but it gives token {largest}"
            )
        return Encoded(np.where(mask, ids, np.minimum(ids, size - 1)), mask, types)


def default_framework() -> str:
    """PyTorch if it is installed, else JAX."""
    return "torch" if find_spec("torch") is not None else "jax"


def longest(model: Any) -> int | None:
    """Maximum number of tokens of a model with learned positions; None without a limit."""
    found = getattr(backbone(model).config, "max_len", None)
    return found if isinstance(found, int) else None
