"""The way back of a conversion: the target, converted to the source's layout, has the bytes of the source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from attention_bridge.checkpoints import Reader
from attention_bridge.parity.certificates import hashes
from attention_bridge.pretrained.certification.recipe import Recipe
from attention_bridge.pretrained.conversion import axes_beside
from attention_bridge.pretrained.keras import files as keras_files
from attention_bridge.pretrained.source import Source
from attention_bridge.weights import stream
from attention_bridge.weights.engine import find_layout

SHOWN = 3


@dataclass(frozen=True)
class WayBack:
    """The tensors of the source, and those that the target gives when it is converted back.

    Attributes:
        source: SHA-256 of the tensors of the source that are converted.
        back: SHA-256 of the same tensors from the target.
        not_converted: names of other tensors of the source, with the reason.
        faults: differences, one sentence each.
    """

    source: str
    back: str
    not_converted: dict[str, str]
    faults: tuple[str, ...]


def way_back(opened: Source, target: Reader, recipe: Recipe) -> WayBack:
    """Convert the target back, one tensor at a time, and compare its bytes with the source.

    Raises:
        ConversionError: the target does not fit its layout.
    """
    reader, layout = opened.reader, find_layout(recipe.source_layout)
    given = keras_files.open_source(reader, layout)
    axes = axes_beside(given, recipe.axes)
    planned = stream(
        reader.specs, reader.read, layout, recipe.target_layout, axes=axes, config=opened.reading
    )
    names = {name: name for name in planned.specs}
    if target.format == "keras":
        places = {**given.standing, **recipe.places}
        names = keras_files.place(Path(recipe.target), planned.specs, recipe.target_layout, places)[0]
    faults = [f"the target has no tensor {each}" for each in names.values() if each not in target.specs]
    faults += [f"the target has a tensor {each} of its own" for each in target.specs.keys() - names.values()]
    if faults:
        none = hashes.of_hashes({})
        return WayBack(none, none, {}, tuple(sorted(faults)[:SHOWN]))
    back = stream(
        {name: target.specs[there] for name, there in names.items()},
        lambda name: target.read(names[name]),
        recipe.target_layout,
        layout,
        axes=axes,
        config=opened.reading,
    )
    stored = {layout.canonical(name): name for name in reader.specs}
    ours, theirs = dict[str, str](), dict[str, str]()
    for name, array in back.items():
        if (own := stored.get(layout.canonical(name))) is not None:
            ours[own] = hashes.of_array(reader.read(own))
            theirs[own] = hashes.of_array(array)
    reasons = {note.name: note.reason for note in planned.report.ignored}
    left = [name for name in reader.specs if name not in ours]
    lost = [f"the way back has no tensor {name}" for name in left if name not in reasons]
    lost += [f"the way back gives other bytes of {name}" for name in ours if ours[name] != theirs[name]]
    return WayBack(
        hashes.of_hashes(ours),
        hashes.of_hashes(theirs),
        {name: reasons[name] for name in left if name in reasons},
        tuple(lost[:SHOWN]),
    )
