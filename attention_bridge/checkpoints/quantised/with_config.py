"""Dequantisation of a checkpoint by its whole config.json."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attention_bridge.checkpoints.quantised.logical import FLOATS, Dtype
from attention_bridge.checkpoints.quantised.reading import dequantised, quantised_without_config
from attention_bridge.checkpoints.reader import Reader
from attention_bridge.errors import CheckpointError

# Modules whose weights are (in, out) in an unquantised checkpoint, by `model_type`; quantised ones are (out, in).
TRANSPOSED = dict.fromkeys(("gpt2", "imagegpt", "openai-gpt"), ("c_attn", "c_fc", "c_proj", "q_attn"))
INNER = ("text_config", "llm_config")


def unquantised(reader: Reader, config: Mapping[str, Any], source: object = "config.json") -> Reader:
    """Read a checkpoint, quantised or not, as if it were not quantised.

    Args:
        reader: the opened checkpoint.
        config: the content of config.json. Its `quantization_config`, `dtype` (or `torch_dtype`) and `model_type`
            are used; the first two may be in the text model's part.
        source: the file of `config`, for messages.

    Returns:
        The result of `dequantised`, or `reader` itself if there is no `quantization_config`.

    Raises:
        CheckpointError: the checkpoint is quantised without a `quantization_config`, or `dequantised` refuses it.
            `reader` stays open.
    """
    given = _first(config, "quantization_config")
    if given is None:
        found = quantised_without_config(reader.specs)
        if found is not None:
            raise CheckpointError(f"{reader.path} cannot be read: {found}")
        return reader
    transposed = TRANSPOSED.get(str(config.get("model_type")), ())
    return dequantised(reader, given, source, dtype=_dtype(config), transposed=transposed)


def _dtype(config: Mapping[str, Any]) -> Dtype | None:
    """The model's dtype; None if the configuration gives none of bfloat16, float16 and float32."""
    given = _first(config, "dtype", "torch_dtype")
    names = {dtype.name: dtype for dtype in FLOATS}
    return names.get(given.removeprefix("torch.")) if isinstance(given, str) else None


def _first(config: Mapping[str, Any], *names: str) -> Any:
    """The first of these fields that is given, in the configuration or in its text model's part."""
    for part in _parts(config):
        for name in names:
            if part.get(name) is not None:
                return part[name]
    return None


def _parts(config: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield config
    for name in INNER:
        if isinstance(config.get(name), Mapping):
            yield config[name]
