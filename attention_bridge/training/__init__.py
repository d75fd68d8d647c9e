"""Training, the same in PyTorch and in JAX: same weights to begin with, same batches, same arithmetic of AdamW.

| name         | is                                                                             |
|--------------|--------------------------------------------------------------------------------|
| `Lesson`     | a model, its batches and its optimizer, said once for both frameworks          |
| `run`        | learns a lesson in one framework or both: bar, checkpoints, picture of losses  |
| `learner_of` | what takes the steps of a lesson in one framework                              |
| `train`      | takes them, and gives the losses                                               |
| `keep_masks` | what dropout keeps in a step, the same in both frameworks                      |
| `example`    | makes a command of a function: the options that all examples share             |

A run that was stopped in one framework goes on in the other: checkpoints hold weights and moments in PyTorch's layout.
"""

from attention_bridge.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from attention_bridge.training.command import Options, example
from attention_bridge.training.keeps import keep_masks
from attention_bridge.training.lessons import IGNORED, AdamW, Batch, Lesson, State
from attention_bridge.training.running import NAMES, Outcome, apart, learner_of, run, train

__all__ = [
    "IGNORED",
    "NAMES",
    "AdamW",
    "Batch",
    "Checkpoint",
    "Lesson",
    "Options",
    "Outcome",
    "State",
    "apart",
    "example",
    "keep_masks",
    "learner_of",
    "read_checkpoint",
    "run",
    "train",
    "write_checkpoint",
]
