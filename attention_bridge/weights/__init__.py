"""Weights from any layout to any other, exactly and strictly.

| function   | converts                                             |
|------------|------------------------------------------------------|
| `convert`  | named numpy arrays, with neither framework installed |
| `stream`   | the same, read and made a few at a time              |
| `transfer` | models, states and trees of either framework         |
| `plan`     | nothing: it says what `transfer` would do            |
| `explain`  | nothing: it says in words what a report says         |
"""

from attention_bridge.weights.engine import convert
from attention_bridge.weights.explain import explain
from attention_bridge.weights.grouped import GroupedRule
from attention_bridge.weights.layout import Constant, Dropped, Layout, Refused, Tied, ZeroBias
from attention_bridge.weights.report import Fault, Match, Note, Report
from attention_bridge.weights.rule import Rule
from attention_bridge.weights.streaming import Stream, stream
from attention_bridge.weights.transfer import plan, transfer

__all__ = [
    "Constant",
    "Dropped",
    "Fault",
    "GroupedRule",
    "Layout",
    "Match",
    "Note",
    "Refused",
    "Report",
    "Rule",
    "Stream",
    "Tied",
    "ZeroBias",
    "convert",
    "explain",
    "plan",
    "stream",
    "transfer",
]
