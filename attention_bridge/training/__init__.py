"""Equal training in PyTorch and JAX: the same initial weights, the same batches, the same AdamW arithmetic.

| name         | purpose                                                                        |
|--------------|--------------------------------------------------------------------------------|
| `Lesson`     | a training task: model, batches and optimizer, defined once for both frameworks|
| `run`        | trains in one or both frameworks: progress bar, checkpoints, loss curves       |
| `learner_of` | makes the learner that trains a lesson in one framework                        |
| `train`      | takes the training steps of a learner and yields the losses                    |
| `keep_masks` | dropout masks of a step, the same in both frameworks                           |
| `example`    | makes a command from a function, with the options that all examples share      |

A run can be resumed in the other framework: checkpoints hold weights and moments in PyTorch's layout.
"""

from attention_bridge.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from attention_bridge.training.command import Options, example
from attention_bridge.training.dropout_masks import keep_masks
from attention_bridge.training.lessons import IGNORED, AdamW, Batch, Lesson, State
from attention_bridge.training.runs import NAMES, Outcome, apart, learner_of, run, train

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
