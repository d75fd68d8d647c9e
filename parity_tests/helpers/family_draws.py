"""Configurations drawn at random: one of each family's odd cases for a commit, and fields of a configuration.

`drawn` changes fields of a tiny configuration within the ranges of its class: flags, sizes, activations, rotary
scalings, layer types, special tokens. Each draw must be refused by name, or give the outputs of transformers.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from parity_tests.helpers.families import CASES
from parity_tests.helpers.family_cases import added_cases
from parity_tests.helpers.family_cases.case import Case
from parity_tests.helpers.share import one_of

ACTIVATIONS = ("gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "relu2", "silu", "tanh", "mish")
PARTS = ("text_config", "vision_config")  # configurations of the parts of a model
# Fields that only name things, or that ask for something other than a model in evaluation.
LEFT = {
    "architectures", "attn_implementation", "chunk_size_feed_forward", "dtype", "gradient_checkpointing", "id2label",
    "label2id", "model_type", "name_or_path", "output_attentions", "output_hidden_states", "problem_type",
    "return_dict", "tokenizer_class", "torch_dtype", "torchscript", "transformers_version", "use_return_dict",
    "num_labels", *PARTS, "pruned_heads", "quantization_config", "is_encoder_decoder",
}  # fmt: skip
WIDTHS = ("d_model", "dim", "hidden_size", "n_embd")  # a single feature is its own norm, up to the sign
ROTARY = (
    {"rope_type": "default", "rope_theta": 50.0},
    {"rope_type": "linear", "rope_theta": 80.0, "factor": 3.0},
    {"rope_type": "dynamic", "rope_theta": 80.0, "factor": 3.0},
    {"rope_type": "proportional", "rope_theta": 80.0, "factor": 2.0, "partial_rotary_factor": 0.6},
    {"rope_type": "yarn", "rope_theta": 90.0, "factor": 4.0, "original_max_position_embeddings": 16},
    {"rope_type": "llama3", "rope_theta": 90.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
     "original_max_position_embeddings": 16},
)  # fmt: skip


def groups() -> dict[str, tuple[str, ...]]:
    """The cases of each family, by its name."""
    added = {name: tuple(cases) for name, cases in added_cases().items()}
    others = [name for name in CASES if not any(name in names for names in added.values())]
    first: dict[str, tuple[str, ...]] = {}
    for name in others:
        word = name.split(" ")[0].strip(",")
        first[word] = (*first.get(word, ()), name)
    return first | added


def drawn_cases() -> list[str]:
    """One case of each family, chosen by the commit; without a repository, by the word `none`."""
    return [one_of(family, names) for family, names in groups().items()]


def drawn(case: Case, rng: np.random.Generator) -> dict[str, Any]:
    """Changed fields of a tiny configuration, one to three of them."""
    config = case.config(**case.fields)
    parts = [part for part in PARTS if dataclasses.is_dataclass(getattr(config, part, None))]
    part = str(rng.choice(parts)) if parts and rng.random() < 0.8 else None
    if part is None:
        return _drawn(config, rng)
    changed = _drawn(getattr(config, part), rng)
    return {part: {**case.fields.get(part, {}), **changed}} if changed else {}


def _drawn(config: Any, rng: np.random.Generator) -> dict[str, Any]:
    given = config.to_dict()
    fields = {each.name: str(each.type) for each in dataclasses.fields(config)}
    names = sorted(
        name for name in fields.keys() & given.keys() if name not in LEFT and not name.startswith("_")
    )
    chosen = rng.choice(names, size=min(int(rng.integers(1, 4)), len(names)), replace=False)
    changed = {str(name): _changed(str(name), given[name], fields[name], rng) for name in chosen}
    return {name: value for name, value in changed.items() if value is not ...}


def _changed(name: str, value: Any, kind: str, rng: np.random.Generator) -> Any:
    """Another value of a field; `...` for none."""
    if name in ("rope_parameters", "rope_scaling"):
        return dict(ROTARY[rng.integers(len(ROTARY))])
    if "act" in name.split("_") or name.endswith(("activation", "activation_function")):
        return str(rng.choice(ACTIVATIONS))
    if name == "layer_types" and isinstance(value, list):
        return [str(each) for each in rng.permutation(value)]
    if isinstance(value, bool) or (value is None and "bool" in kind):
        return not value
    if isinstance(value, int):
        least = 2 if name in WIDTHS else 0
        drawn = rng.choice([0, 1, value + 1, value - 1, 2 * value, value // 2])
        return max(int(drawn), least)
    if isinstance(value, float) and "eps" in name:
        return float(10.0 ** -rng.integers(1, 5))
    if isinstance(value, float):
        return float(rng.choice([0.5, 2.0, 10.0]) * value) if value else float(rng.choice([0.5, 1.0]))
    if value is None and "int" in kind:
        return int(rng.integers(1, 9))
    if value is None and "float" in kind:
        return float(rng.choice([0.5, 1.0, 2.0]))
    return ...
