"""Pooling, projection and normalisation of sentence embeddings, from `modules.json` of sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.config_files import read_json
from attention_bridge.pretrained.text.dense import check_names, read_dense
from attention_bridge.pretrained.text.pooling import MODES, normalise
from attention_bridge.pretrained.text.tokenizer_files import optional

# Flags of the older format, in the order of the concatenated vectors.
FLAGS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
KNOWN = ("Transformer", "Pooling", "Dense", "Normalize", "Dropout")


@dataclass(frozen=True)
class SentenceModules:
    """Steps after the encoder.

    Attributes:
        modes: pooling modes, concatenated.
        steps: functions of the pooled vectors, in order.
        longest: maximum number of tokens of a text; None for the tokenizer's.
        lowercase: whether texts are lower-cased first.
        prompt: text before each text; empty for none.
    """

    modes: tuple[str, ...] = ("mean",)
    steps: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
    longest: int | None = None
    lowercase: bool = False
    prompt: str = ""


def read_modules(directory: Path) -> SentenceModules | None:
    """Read `modules.json` and the files that it names; None without it.

    Raises:
        CheckpointError: a file is damaged, or a module or an option is not supported.
    """
    path = directory / "modules.json"
    if not path.is_file():
        return None
    modes: tuple[str, ...] = ("mean",)
    steps: list[Callable[[np.ndarray], np.ndarray]] = []
    folders: dict[str, Path] = {}
    for row in read_json(path, list):
        kind, folder = _module(path, row)
        if kind in folders and kind in ("Transformer", "Pooling"):
            raise CheckpointError(f"{path} must list one {kind}, got several")
        folders[kind] = folder
        if kind == "Pooling":
            modes = _modes(folder / "config.json")
        elif kind == "Dense":
            steps.append(read_dense(folder))
        elif kind == "Normalize":
            check_names(folder)
            steps.append(normalise)
    if "Pooling" not in folders:
        raise CheckpointError(f"{path} must list a Pooling module, got {', '.join(folders) or 'no module'}")
    sizes = _sizes(folders.get("Transformer", directory))
    longest = sizes.get("max_seq_length")
    return SentenceModules(
        modes,
        tuple(steps),
        longest if type(longest) is int and longest > 0 else None,
        bool(sizes.get("do_lower_case", False)),
        _prompt(directory),
    )


def transformer_folder(directory: Path) -> Path:
    """The folder of the model and its tokenizer: `0_Transformer` in some directories, else the directory itself.

    Raises:
        CheckpointError: `modules.json` is damaged.
    """
    path = directory / "modules.json"
    rows = map(partial(_module, path), read_json(path, list) if path.is_file() else ())
    return next((folder for kind, folder in rows if kind == "Transformer"), directory)


def _sizes(folder: Path) -> dict[str, Any]:
    """The settings of the Transformer module, whose file is `sentence_bert_config.json`, or has another model's name.

    Raises:
        CheckpointError: the module gives another output than the last hidden states.
    """
    path = next(iter(sorted(folder.glob("sentence_*_config.json"))), folder / "sentence_bert_config.json")
    fields = optional(path)
    modalities = fields.get("modality_config")
    text = modalities.get("text") if isinstance(modalities, Mapping) else None
    output = text.get("method_output_name") if isinstance(text, Mapping) else None
    if output not in (None, "last_hidden_state"):
        raise CheckpointError(f"{path} must have the output last_hidden_state, got {output!r}")
    return fields


def _module(path: Path, row: Any) -> tuple[str, Path]:
    """The class of a module, and its folder."""
    if not isinstance(row, Mapping) or not isinstance(row.get("path"), str):
        raise CheckpointError(f"{path} must list modules as objects with type and path, got {row!r}")
    kind, place = str(row.get("type")).rpartition(".")[2], Path(row["path"])
    if kind not in KNOWN:
        raise CheckpointError(f"{path} lists the module {kind}, and embed supports only {', '.join(KNOWN)}")
    if place.is_absolute() or ".." in place.parts:
        raise CheckpointError(f"{path} must give folders below its own, got {row['path']!r}")
    return kind, path.parent / place


def _modes(path: Path) -> tuple[str, ...]:
    """The pooling modes, from `pooling_mode` or from the older format with one flag per mode."""
    fields = read_json(path)
    if fields.get("include_prompt") is False and _prompt(path.parent.parent):
        raise CheckpointError(
            f"{path} leaves the prompt's tokens out of the pooling, which embed does not support"
        )
    given = fields.get("pooling_mode")
    if given is None:
        on = [name for name, value in fields.items() if name.startswith("pooling_mode_") and value is True]
        unknown = tuple(name for name in on if name not in FLAGS)
        found = (*(mode for flag, mode in FLAGS.items() if flag in on), *unknown) or ("mean",)
    else:
        found = tuple(map(str, given)) if isinstance(given, list) else (str(given),)
    if wrong := [mode for mode in found if mode not in MODES]:
        raise CheckpointError(
            f"{path} pools by {', '.join(wrong)}, and embed supports only {', '.join(MODES)}"
        )
    return found


def _prompt(directory: Path) -> str:
    """The default prompt of `config_sentence_transformers.json`."""
    fields = optional(directory / "config_sentence_transformers.json")
    prompts, name = fields.get("prompts"), fields.get("default_prompt_name")
    found = prompts.get(name) if isinstance(prompts, Mapping) and name is not None else None
    return found if isinstance(found, str) else ""
