"""Certificates of conversions: both files are loaded in both mirrors, run, and converted back."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attention_bridge import checkpoints
from attention_bridge.checkpoints import Reader
from attention_bridge.parity.certificates import Certificate, hashes
from attention_bridge.parity.certificates.certificate import check_path
from attention_bridge.parity.certificates.layouts import is_own
from attention_bridge.pretrained import verification
from attention_bridge.pretrained.certification.files import files_of
from attention_bridge.pretrained.certification.recipe import Recipe, relative
from attention_bridge.pretrained.certification.way_back import way_back
from attention_bridge.pretrained.families import Reading
from attention_bridge.pretrained.source import Source
from attention_bridge.weights import convert, transfer

PLATFORM = "cpu"
OF_ONES_OWN = "a layout of one's own describes no model"
NO_CONFIG = "no configuration that is understood describes one"


def certify_conversion(recipe: Recipe, root: Path) -> Certificate:
    """Certify a conversion that was done.

    The weights are converted back and compared byte for byte. If the configuration describes a model and both layouts
    are the package's, the source and the target are loaded in both mirrors; the source runs in PyTorch and the target
    in JAX, forward and backward in float32, and PyTorch in float64 is the reference.

    Args:
        recipe: the conversion.
        root: directory that the paths in the certificate are relative to.

    Raises:
        CheckpointError: a file cannot be read, or the configuration is not supported.
        ConversionError: the tensors do not fit their layout or the model.
        InputError: packages are missing, or the configuration describes a model that has other tensors.
    """
    layouts = recipe.layouts()
    changes = None if recipe.model_type is None else {"model_type": recipe.model_type}
    found = checkpoints.find(recipe.target)
    with (
        Source.open(recipe.source, recipe.config, changes=changes, ignore=recipe.ignore) as opened,
        checkpoints.open(found) as target,
    ):
        back = way_back(opened, target, recipe)
        no_model = reason_without_model(opened, recipe)
        source_files = files_of(opened.found)
        if opened.config_file not in (None, *source_files) and opened.reading is not None:
            source_files.append(Path(str(opened.config_file)))
        target_files = files_of(found)
        if recipe.target_config is not None:
            target_files.append(recipe.target_config)
        subject = {
            "source": _end(opened.path, opened.found.format, layouts[0], source_files, opened.reader, root),
            "target": _end(found.path, found.format, layouts[1], target_files, target, root),
            **recipe.options(root),
            "not_converted": back.not_converted,
            "model": None if no_model or opened.reading is None else opened.reading.model.name,
            "no_model": no_model,
        }
        weights = {"source": back.source, "way back": back.back}
        faults, runs = list(back.faults), list[Mapping[str, Any]]()
        if no_model is None and not faults:
            verification.check(
                opened, recipe.source_layout, recipe.target_layout, axes=recipe.axes, option="a certificate"
            )
            run, loaded = _run(opened, target, recipe)
            runs.append(run)
            weights |= loaded
            if len(set(loaded.values())) > 1:
                faults.append("source and target do not give the same model in both mirrors")
    return Certificate.made("conversion", subject, weights, runs, PLATFORM if runs else None, faults)


def prepare(opened: Source, recipe: Recipe, path: Path) -> None:
    """Check that a conversion can be certified, before it writes anything.

    Args:
        opened: the source.
        recipe: the conversion.
        path: file of the certificate.

    Raises:
        ConversionError: the source does not fit its layout.
        InputError: the certificate cannot be written, packages are missing, a layout of one's own cannot be written as
            TOML, or the configuration describes a model that has other tensors.
    """
    check_path(path)
    recipe.layouts()
    if reason_without_model(opened, recipe) is None:
        ends = recipe.source_layout, recipe.target_layout
        verification.check(opened, *ends, axes=recipe.axes, option="--certify")


def reason_without_model(opened: Source, recipe: Recipe) -> str | None:
    """Why the certificate of a conversion runs no model; None if it runs one."""
    if is_own(recipe.source_layout) or is_own(recipe.target_layout):
        return OF_ONES_OWN
    return NO_CONFIG if opened.reading is None else None


def _end(
    path: Path, format: str, layout: Mapping[str, Any], files: list[Path], reader: Reader, root: Path
) -> dict[str, Any]:
    return {
        "path": relative(path, root),
        "format": format,
        "layout": layout,
        "files": {relative(file, root): hashes.of_file(file) for file in files},
        "tensors": len(reader.specs),
    }


def _run(opened: Source, target: Reader, recipe: Recipe) -> tuple[dict[str, Any], dict[str, str]]:
    """The figures of the model's comparison, and the SHA-256 of the weights in each of the four models."""
    from attention_bridge.parity.calls import calls
    from attention_bridge.parity.certificates.figures import figures
    from attention_bridge.parity.comparison import measure
    from attention_bridge.parity.couple import Couple

    reading: Reading = opened.checked()
    ends = {
        "source": _weights(opened.reader, recipe.source_layout, recipe, reading),
        "target": _weights(target, recipe.target_layout, recipe, reading),
    }
    loaded, models = dict[str, str](), dict[str, Any]()
    for end, weights in ends.items():
        for framework, empty in (
            ("torch", verification.torch_model),
            ("jax", verification.jax_model),
        ):
            model = transfer(weights, empty(reading.model))
            loaded[f"{end} in {framework}"] = _of_model(model, framework)
            models[f"{end} in {framework}"] = model
    in_torch, in_jax = models["source in torch"], models["target in jax"]
    models.clear()
    keywords = _keywords(in_torch)
    called = calls(in_torch, verification.inputs(reading.model), keywords)
    measured = measure(Couple(in_torch, in_jax), called, PLATFORM, is_whole=True)
    name = f"{reading.model.name}, source in PyTorch and target in JAX"
    return figures(name, measured, called.inputs, {"inputs": verification.SEED}), loaded


def _weights(reader: Reader, layout: Any, recipe: Recipe, reading: Reading) -> dict[str, np.ndarray]:
    """The weights of a file in the canonical layout, in float32."""
    converted, _ = convert(dict(reader.items()), layout, "torch_attention", recipe.axes, reading)
    return {name: x.astype(np.float32) for name, x in converted.items()}


def _of_model(model: Any, framework: str) -> str:
    """The SHA-256 of a model's weights under their canonical names."""
    from attention_bridge.weights.containers import open_container
    from attention_bridge.weights.leaves import to_numpy

    leaves = {name: to_numpy(name, leaf) for name, leaf in open_container(model).leaves.items()}
    if framework == "jax":
        leaves = convert(leaves, "jax_attention", "torch_attention")[0]
    return hashes.of_arrays(leaves)


def _keywords(model: Any) -> dict[str, Any]:
    """Arguments with which a model returns its attention maps, if it can."""
    return {"need_weights": True} if "need_weights" in inspect.signature(model.forward).parameters else {}
