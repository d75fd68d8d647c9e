"""LoRA adapters (Hu et al. 2021) as PEFT saves them: merged on load, or kept apart, trained and saved again.

| function        | does                                                                          |
|-----------------|-------------------------------------------------------------------------------|
| `is_adapter`    | whether a directory holds an adapter                                          |
| `base_of`       | the base model that an adapter names                                          |
| `read_adapter`  | reads an adapter                                                              |
| `merged`        | a checkpoint with the updates added to its weights                            |
| `replaced`      | a checkpoint with the tensors that the adapter holds as a whole               |
| `apply_adapter` | puts the updates beside the linear layers of a model                          |
| `save_adapter`  | writes the updates of a model for PEFT                                        |
| `check_plain`   | raises for a model with updates, which is no checkpoint of its own            |
"""

from attention_bridge.pretrained.adapters.adapter import Adapter, Update, read_adapter
from attention_bridge.pretrained.adapters.apart import apply_adapter, check_plain
from attention_bridge.pretrained.adapters.config import (
    AdapterConfig,
    base_of,
    is_adapter,
    read_adapter_config,
)
from attention_bridge.pretrained.adapters.merging import merged, replaced
from attention_bridge.pretrained.adapters.saving import save_adapter

__all__ = [
    "Adapter",
    "AdapterConfig",
    "Update",
    "apply_adapter",
    "base_of",
    "check_plain",
    "is_adapter",
    "merged",
    "read_adapter",
    "read_adapter_config",
    "replaced",
    "save_adapter",
]
