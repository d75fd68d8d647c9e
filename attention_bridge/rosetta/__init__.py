"""The same attention call in every framework, side by side: facts as plain data, and the page made of them.

`python -m attention_bridge.pages.rosetta` prints `docs/rosetta.md`. It needs none of the frameworks; tests run them
all and hold every fact against what they do.

| file            | what it holds                                                |
|-----------------|--------------------------------------------------------------|
| `peer.py`       | one way to call attention, as a frozen dataclass             |
| `operations.py` | attention without parameters                                 |
| `layers.py`     | layers of the frameworks, ours, and all together             |
| `community.py`  | those of Equinox, Haiku and x-transformers                   |
| `models.py`     | models of Hugging Face                                       |
| `defaults.py`   | what differs outside attention                               |
| `traps.py`      | what goes wrong without a word, and the line that cures it   |
| `peers.py`      | all calls                                                    |
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
