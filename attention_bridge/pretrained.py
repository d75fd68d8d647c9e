"""Pretrained BERT encoders: a Hugging Face directory in, the sizes and weights of our `Encoder` out.

Neither framework is needed. A field of `config.json` that changes the arithmetic and is not understood is
refused by its name; what is read here is meant to give the same numbers, or nothing.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/bert/configuration_bert.py
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.errors import CheckpointError

LAYOUT = "hf.bert"

# What Hugging Face calls a size, and what `EncoderConfig` does.
SIZES = {
    "vocab_size": "vocab_size",
    "hidden_size": "embed_dim",
    "num_attention_heads": "num_heads",
    "num_hidden_layers": "num_layers",
    "intermediate_size": "ffn_dim",
    "max_position_embeddings": "max_len",
    "type_vocab_size": "num_types",
}
ACTIVATIONS = {
    "gelu": "gelu",
    "relu": "relu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}
# Fields that change the arithmetic, and the only values of theirs that `Encoder` computes; absent is the first.
REQUIRED: dict[str, tuple[object, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "is_encoder_decoder": (False,),
    "add_cross_attention": (False,),
    "pruned_heads": ({}, None),
    "quantization_config": (None,),
    "auto_map": (None,),
}
# Fields that change nothing in what an encoder computes: training, tokens, task heads, bookkeeping.
HARMLESS = frozenset(
    {
        "_attn_implementation",
        "_name_or_path",
        "architectures",
        "attention_probs_dropout_prob",
        "bos_token_id",
        "chunk_size_feed_forward",
        "classifier_dropout",
        "cls_token_id",
        "decoder_start_token_id",
        "directionality",
        "dtype",
        "eos_token_id",
        "finetuning_task",
        "gradient_checkpointing",
        "hidden_dropout_prob",
        "id2label",
        "initializer_range",
        "label2id",
        "language",
        "model_type",
        "name",
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "output_past",
        "pad_token_id",
        "pooler_fc_size",
        "pooler_num_attention_heads",
        "pooler_num_fc_layers",
        "pooler_size_per_head",
        "pooler_type",
        "prefix",
        "problem_type",
        "return_dict",
        "sep_token_id",
        "task_specific_params",
        "tie_word_embeddings",
        "tokenizer_class",
        "torch_dtype",
        "torchscript",
        "transformers_version",
        "use_cache",
    }
)
# Sentence-transformers modules that the mean over the tokens, at unit length, covers.
SENTENCE_MODULES = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint that has been read.

    Attributes:
        directory: where it was read from.
        config: keyword arguments of `EncoderConfig`.
        tensors: the weights, named and laid out as `layouts.hf_bert` says.
        max_tokens: how many tokens of a text the model reads.
    """

    directory: Path
    config: dict[str, Any]
    tensors: dict[str, np.ndarray]
    max_tokens: int


def read_bert(directory: str | os.PathLike[str]) -> Pretrained:
    """Read `config.json` and the weights of a BERT-style encoder.

    16-bit weights become float32, which holds each of them exactly.

    Raises:
        CheckpointError: a file is missing or damaged, or the model is not one that `Encoder` computes.
    """
    directory = Path(directory)
    config = encoder_config(_read_json(directory / "config.json"), source=directory / "config.json")
    max_tokens = min(config["max_len"], _sentence_length(directory) or config["max_len"])
    tensors = {name: _widen(tensor) for name, tensor in checkpoints.read(directory).items()}
    config["pooler"] = any(name.endswith("pooler.dense.weight") for name in tensors)
    return Pretrained(directory, config, tensors, max_tokens)


def encoder_config(fields: Mapping[str, Any], source: object = "config.json") -> dict[str, Any]:
    """The keyword arguments of `EncoderConfig` for a Hugging Face BERT config.

    Rates of dropout are left behind: they belong to training.

    Args:
        fields: what `config.json` holds.
        source: how messages call it.

    Returns:
        Every argument but `pooler`, which only the weights tell, and `dropout`.

    Raises:
        CheckpointError: not a BERT, a size is absent or impossible, or a field is not understood.
    """
    model_type = fields.get("model_type")
    if model_type != "bert":
        raise CheckpointError(f"{source} must describe a BERT encoder, model_type 'bert', got {model_type!r}")
    for name, accepted in REQUIRED.items():
        if fields.get(name, accepted[0]) not in accepted:
            raise CheckpointError(f"{source} must have {name} {accepted[0]!r}, got {fields[name]!r}")
    understood = {*SIZES, *REQUIRED, *HARMLESS, "hidden_act", "layer_norm_eps"}
    if unknown := sorted(fields.keys() - understood):
        raise CheckpointError(
            f"{source} has fields that may change the arithmetic and are not understood: {', '.join(unknown)}"
        )
    config: dict[str, Any] = {ours: _size(fields, theirs, source) for theirs, ours in SIZES.items()}
    if config["embed_dim"] % config["num_heads"]:
        raise CheckpointError(
            f"{source} must have a hidden_size that num_attention_heads divides, "
            f"got {config['embed_dim']} and {config['num_heads']}"
        )
    return config | {"activation": _activation(fields, source), "norm_eps": _norm_eps(fields, source)}


def check_mean_pooling(directory: Path) -> None:
    """Raise unless a sentence's embedding is the mean of its tokens, as far as the directory says.

    Raises:
        CheckpointError: it has another pooling, or modules beyond it.
    """
    path = directory / "modules.json"
    for module in _read_json(path, list) if path.exists() else ():
        if not isinstance(module, dict):
            raise CheckpointError(f"{path} must list modules as JSON objects, got {module!r}")
        kind = str(module.get("type")).rpartition(".")[2]
        if kind not in SENTENCE_MODULES:
            raise CheckpointError(f"{path} must list only {', '.join(SENTENCE_MODULES)}, got {kind}")
        if kind == "Pooling":
            pooling = directory / str(module.get("path")) / "config.json"
            if (modes := _pooling_modes(_read_json(pooling))) != ["mean"]:
                raise CheckpointError(f"{pooling} must pool by the mean over tokens, got {', '.join(modes)}")


def _pooling_modes(pooling: Mapping[str, Any]) -> list[str]:
    """As sentence-transformers writes them today, `pooling_mode`, or did: one flag for each mode."""
    if "pooling_mode" in pooling:
        given = pooling["pooling_mode"]
        return [str(mode) for mode in given] if isinstance(given, list) else [str(given)]
    flags = [name for name, on in pooling.items() if name.startswith("pooling_mode_") and on]
    return [name.removeprefix("pooling_mode_").removesuffix("_tokens") for name in flags] or ["nothing"]


def _sentence_length(directory: Path) -> int | None:
    """How many tokens sentence-transformers lets the model read, if the directory says so."""
    path = directory / "sentence_bert_config.json"
    fields = _read_json(path) if path.exists() else {}
    return None if fields.get("max_seq_length") is None else _size(fields, "max_seq_length", path)


def _read_json(path: Path, kind: type = dict) -> Any:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} must be JSON, but is not: {error}") from error
    if not isinstance(content, kind):
        raise CheckpointError(f"{path} must hold a JSON {kind.__name__}, got {type(content).__name__}")
    return content


def _size(fields: Mapping[str, Any], name: str, source: object) -> int:
    value = fields.get(name)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{source} must have a positive whole number {name}, got {value!r}")
    return value


def _activation(fields: Mapping[str, Any], source: object) -> str:
    name = fields.get("hidden_act")
    if not isinstance(name, str) or name not in ACTIVATIONS:
        raise CheckpointError(f"{source} must have hidden_act {', '.join(ACTIVATIONS)}, got {name!r}")
    return ACTIVATIONS[name]


def _norm_eps(fields: Mapping[str, Any], source: object) -> float:
    value = fields.get("layer_norm_eps")
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise CheckpointError(f"{source} must have a positive number layer_norm_eps, got {value!r}")
    return float(value)


def _widen(tensor: np.ndarray) -> np.ndarray:
    """Float32 for a float of 16 bits; everything else as it is."""
    return tensor.astype(np.float32) if tensor.dtype.name in ("float16", "bfloat16") else tensor
