"""The table of model classes and model types in README.md, from the registry of families.

`python -m parity_tests.helpers.readme_families` puts it into README.md, between two comments.
"""

from pathlib import Path

from attention_bridge.pages.markdown import table
from attention_bridge.pretrained.families import FAMILIES, read_config
from parity_tests.helpers.model_mechanisms import configurations

README = Path(__file__).parents[2] / "README.md"
START, END = "<!-- model types -->\n\n", "\n\n<!-- end of model types -->"
ORDER = (
    "Encoder",
    "Decoder",
    "LanguageModel",
    "RelativeEncoderDecoder",
    "EncoderDecoder",
    "SpeechTransformer",
    "WaveformEncoder",
    "VisionTransformer",
    "VisionHierarchy",
    "ContrastiveModel",
)


def model_types() -> dict[str, list[str]]:
    """The model types that load as each model class."""
    found: dict[str, set[str]] = {}
    for config in configurations():
        model = read_config(config).model
        if model.name == "TaskModel":
            name = model.arguments["config"].arguments["backbone"].name
            model_class = {"ModelSpec": "LanguageModel"}.get(
                name, name.removesuffix("Config").removesuffix("Spec")
            )
        else:
            model_class = model.name
        found.setdefault(model_class, set()).add(config["model_type"])
    for name, family in FAMILIES.items():  # other names of the same family
        for types in found.values():
            if "." not in name and types & set(family.model_types):
                types.update(family.model_types)
    return {name: sorted(found[name]) for name in sorted(found, key=ORDER.index)}


def readme() -> str:
    """README.md with the table of today."""
    rows = [(f"`{name}`", ", ".join(f"`{each}`" for each in types)) for name, types in model_types().items()]
    before, rest = README.read_text().split(START)
    return (
        before
        + START
        + table(("model class", "`model_type` of checkpoints"), rows)
        + END
        + rest.split(END)[1]
    )


if __name__ == "__main__":
    README.write_text(readme())
