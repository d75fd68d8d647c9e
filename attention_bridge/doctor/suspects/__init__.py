"""The suspects: every mistake that the doctor knows, each one small function."""

from attention_bridge.doctor.suspects.blocks import BLOCKS
from attention_bridge.doctor.suspects.masks import MASKS
from attention_bridge.doctor.suspects.matrices import MATRICES
from attention_bridge.doctor.suspects.rounding import ROUNDED, ROUNDING
from attention_bridge.doctor.suspects.scores import SCORES
from attention_bridge.doctor.suspects.suspect import Suspect, planted

SUSPECTS: tuple[Suspect, ...] = (*MATRICES, *SCORES, *MASKS, *BLOCKS, *ROUNDED, *ROUNDING)

__all__ = ["ROUNDED", "ROUNDING", "SUSPECTS", "Suspect", "planted"]
