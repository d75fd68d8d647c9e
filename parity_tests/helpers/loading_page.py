"""The page `docs/loading.md`: which checkpoints load, found by loading tiny ones of every kind.

`python -m parity_tests.helpers.loading_page` prints it, and a test tries a share of its rows, drawn by the commit.
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from attention_bridge.checkpoints.gguf_blocks import check_dequantised
from attention_bridge.checkpoints.gguf_types import QUANTISED
from attention_bridge.checkpoints.quantised.methods import KNOWN, REFUSED
from attention_bridge.errors import REFUSALS, CheckpointError
from attention_bridge.pages.markdown import table
from attention_bridge.pretrained import load_pretrained, save_pretrained
from parity_tests.helpers import families, heads
from parity_tests.helpers.family_cases.case import Case
from parity_tests.helpers.family_draws import groups
from parity_tests.helpers.family_proof import deviation, limit, roundings

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
THETA = {"rope_theta": 100.0}
STRETCHED = {**THETA, "factor": 4.0, "original_max_position_embeddings": 16}
ROPES: dict[str, dict[str, Any]] = {
    "default": THETA,
    "linear": {**THETA, "factor": 4.0},
    "dynamic": {**THETA, "factor": 4.0},
    "llama3": {**STRETCHED, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    "yarn": STRETCHED,
    "longrope": {**STRETCHED, "short_factor": 1.0, "long_factor": 2.0},
}
KEPT = ("partial_rotary_factor", "llama_4_scaling_beta")  # parameters beside the ones of a scaling
INTRODUCTION = """# Will my checkpoint load?

The quickest answer is a command, which reads no weights:

    attention-bridge inspect path/to/checkpoint

This page lists the checkpoints that load. It is made by loading tiny checkpoints of every class of transformers, in
three dtypes, and comparing the results with transformers. `make docs` makes it again, and a test compares it with
the checkpoints that load today.

A field that is absent from a configuration has the default of transformers. A field that is not understood is refused
by name if it may change the results; `ignore=("field",)` leaves it out, `config={"field": value}` changes it. Tensors
that the model does not use cause a warning, and `save_pretrained` writes them again."""


class Loaded(NamedTuple):
    """The result of loading a class's checkpoint.

    Attributes:
        model: classes of the model and of its task head.
        unused: modules whose tensors it does not use.
        same: whether saving it gives the same bytes in every file.
    """

    model: str
    unused: str
    same: bool


def loaded(name: str, dtype: torch.dtype) -> Loaded:
    """Load a class's checkpoint in a dtype, and save it again."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        given, back = Path(folder, "given"), Path(folder, "back")
        heads.model(name).to(dtype).save_pretrained(given)
        try:
            model = load_pretrained(given, "torch")
        except REFUSALS:
            return Loaded("refused", "", False)
        save_pretrained(model, back)
        kinds = [type(model).__name__]
        if kinds == ["TaskModel"]:
            kinds = [type(model.backbone).__name__, *({model.config.head.name} - {"NoHead"})]
        unused = {".".join(each.split(".")[:2]).removesuffix(".weight") for each in model.origin.unused()}
        some = sorted({each.removesuffix(".bias") for each in unused})
        more = f" and {len(some) - 2} more" if len(some) > 2 else ""
        same = heads.hashes(given) == heads.hashes(back)
        return Loaded(" + ".join(kinds), ", ".join(f"`{x}`" for x in some[:2]) + more, same)


def class_rows(names: Iterable[str] = heads.WRITTEN) -> list[tuple[str, ...]]:
    """One row for each class: its family, the model here, its unused modules, and the dtypes that stay the same."""
    rows = []
    for name in names:
        written = heads.WRITTEN[name]
        found = {str(dtype).removeprefix("torch."): loaded(name, dtype) for dtype in DTYPES}
        first = found["float32"]
        assert {(x.model, x.unused) for x in found.values()} == {(first.model, first.unused)}, name
        same = ", ".join(dtype for dtype, x in found.items() if x.same)
        family = written.kind.config_class.model_type
        rows.append((family, f"`{name}`", first.model, first.unused or "-", same or "-"))
    return sorted(rows)


def rotary() -> dict[str, str]:
    """The first case of each family of language models with rotary positions."""
    return {
        family: cases[0]
        for family, cases in groups().items()
        for case in [families.CASES[cases[0]]]
        if case.kind == "language" and getattr(case.config(**case.fields), "rope_parameters", None)
    }


def rope_rows(names: Iterable[str] | None = None) -> list[tuple[str, ...]]:
    """One row for each family: whether each scaling of rotary positions loads."""
    first = rotary()
    names = first if names is None else names
    return [(family, *(rope_cell(first[family], kind) for kind in ROPES)) for family in names]


def rope_cell(case: str, kind: str) -> str:
    """Whether a family's tiny model with this scaling gives the logits of transformers, or the reason it is refused."""
    written = copy.deepcopy(families.CASES[case])
    head_dim = written.fields.get("head_dim") or 4
    parameters = {"rope_type": kind, **ROPES[kind]}
    for each in ("short_factor", "long_factor"):
        if each in parameters:
            parameters[each] = [float(parameters[each])] * (head_dim // 2)
    before = written.config(**written.fields).rope_parameters
    if "full_attention" in before:
        parameters = {**before, "full_attention": parameters}
    else:
        parameters |= {name: before[name] for name in KEPT if name in before}
    written.fields["rope_parameters"] = parameters
    try:
        model = families.model(written)
    except Exception:  # of many kinds, also of the validation of configurations
        return "not in transformers"
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        try:
            ours = load_pretrained(folder, "torch")
        except REFUSALS:
            return "refused"
        found = families.ours(written, ours, torch.from_numpy)["output"]
    expected, bound = families.reference(written, model)["output"], families.bound(model)
    error = deviation(found, expected)
    bound = limit(error, expected, bound, (logits(written, each) for each in roundings(model)))
    return "yes" if error <= bound else f"differs by {error:.1e}"


def logits(case: Case, model: Any) -> np.ndarray:
    """The logits of a model of transformers as it is."""
    with torch.no_grad():
        found: np.ndarray = families.CALLS[case.kind](model, families.tensors(case))["output"].numpy()
    return found


def dequantises(kind: int) -> bool:
    """Whether the package `gguf` dequantises a type."""
    try:
        check_dequantised(Path("x.gguf"), "x", kind)
    except CheckpointError:
        return False
    return True


def page() -> str:
    """The page as Markdown."""
    gguf = ", ".join(sorted(blocks.name for kind, blocks in QUANTISED.items() if dequantises(kind)))
    return "\n\n".join(
        [
            INTRODUCTION,
            "## Classes of transformers\n\n"
            "The third column is the model that `load_pretrained` returns, with its task head. It does not use the\n"
            "tensors of the fourth column, but keeps them for `save_pretrained`. The last column lists the dtypes in\n"
            "which it was loaded and saved again with the same bytes in every file.",
            table(("family", "written by", "loads as", "kept for saving", "same bytes"), class_rows()),
            "## Scaling of rotary positions\n\n"
            "`yes` means the logits of transformers, within rounding. `dynamic` depends on the length of the text.",
            table(("family", *ROPES), rope_rows()),
            "## Quantised weights\n\n"
            "These methods, named by `quant_method` in `quantization_config`, load dequantised, as the reference\n"
            f"dequantises them: {', '.join(KNOWN)}.",
            f"These are refused by name: {', '.join(sorted(REFUSED))}.",
            "A quantised file without a `quantization_config` is refused.",
            f"GGUF files of Llama, Mistral, Qwen 2 and Qwen 3 load, not quantised or as {gguf}.",
        ]
    )


if __name__ == "__main__":
    print(page())
