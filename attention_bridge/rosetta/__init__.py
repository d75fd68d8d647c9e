"""The same attention call in every framework: facts as plain data, from which `docs/rosetta.md` is made.

`python -m attention_bridge.pages.rosetta` prints the page and needs no framework. Tests run every call in its framework
and compare its behaviour with the facts.

| file            | contents                                                     |
|-----------------|--------------------------------------------------------------|
| `peer.py`       | one way to call attention, as a frozen dataclass             |
| `operations.py` | attention without parameters                                 |
| `layers.py`     | layers of PyTorch, Flax, Keras and this package, and a list  |
| `community.py`  | layers of Equinox, Haiku and x-transformers                  |
| `models.py`     | models of Hugging Face                                       |
| `defaults.py`   | defaults outside attention that differ                       |
| `traps.py`      | silent mistakes and the line that fixes each                 |
| `versions.py`   | the versions that the facts hold for                         |
| `peers.py`      | the list of all calls                                        |
"""

from attention_bridge.rosetta.defaults import DEFAULTS, Default
from attention_bridge.rosetta.peer import MASK_SHAPES, Empty, Peer
from attention_bridge.rosetta.peers import PEERS
from attention_bridge.rosetta.traps import TRAPS, Trap
from attention_bridge.rosetta.versions import VERSIONS

__all__ = [
    "DEFAULTS",
    "MASK_SHAPES",
    "PEERS",
    "TRAPS",
    "VERSIONS",
    "Default",
    "Empty",
    "Peer",
    "Trap",
]
