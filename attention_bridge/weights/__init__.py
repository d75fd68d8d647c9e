"""Exact and strict conversion of weights between layouts.

| function   | converts                                             |
|------------|------------------------------------------------------|
| `convert`  | named numpy arrays, with neither framework installed |
| `stream`   | named arrays, a few tensors in memory at a time      |
| `transfer` | models, states and trees of either framework         |
| `plan`     | nothing: a dry run of `transfer`                     |
| `explain`  | nothing: it describes a report in words              |

`draft_layout` proposes a layout between two models that no table knows.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention_bridge.errors import Fault as Fault
    from attention_bridge.weights.draft.drafting import draft_layout as draft_layout
    from attention_bridge.weights.draft.proposal import Draft as Draft
    from attention_bridge.weights.draft.proposal import Guess as Guess
    from attention_bridge.weights.engine import convert as convert
    from attention_bridge.weights.explanation import explain as explain
    from attention_bridge.weights.grouped import GroupedRule as GroupedRule
    from attention_bridge.weights.joined import JoinedRule as JoinedRule
    from attention_bridge.weights.layout import Constant as Constant
    from attention_bridge.weights.layout import Dropped as Dropped
    from attention_bridge.weights.layout import Layout as Layout
    from attention_bridge.weights.layout import Refused as Refused
    from attention_bridge.weights.layout import Tied as Tied
    from attention_bridge.weights.layout import Unused as Unused
    from attention_bridge.weights.layout import ZeroBias as ZeroBias
    from attention_bridge.weights.reordered import ReorderedRule as ReorderedRule
    from attention_bridge.weights.report import Match as Match
    from attention_bridge.weights.report import Note as Note
    from attention_bridge.weights.report import Report as Report
    from attention_bridge.weights.rule import Rule as Rule
    from attention_bridge.weights.scaled import ScaledRule as ScaledRule
    from attention_bridge.weights.streaming import Stream as Stream
    from attention_bridge.weights.streaming import stream as stream
    from attention_bridge.weights.trees import plan as plan
    from attention_bridge.weights.trees import transfer as transfer

# Public names and their modules; a module is imported at the first access to a name.
PUBLIC = {
    "Constant": "attention_bridge.weights.layout",
    "Draft": "attention_bridge.weights.draft.proposal",
    "Dropped": "attention_bridge.weights.layout",
    "Fault": "attention_bridge.errors",
    "GroupedRule": "attention_bridge.weights.grouped",
    "Guess": "attention_bridge.weights.draft.proposal",
    "JoinedRule": "attention_bridge.weights.joined",
    "Layout": "attention_bridge.weights.layout",
    "Match": "attention_bridge.weights.report",
    "Note": "attention_bridge.weights.report",
    "Refused": "attention_bridge.weights.layout",
    "ReorderedRule": "attention_bridge.weights.reordered",
    "Report": "attention_bridge.weights.report",
    "Rule": "attention_bridge.weights.rule",
    "ScaledRule": "attention_bridge.weights.scaled",
    "Stream": "attention_bridge.weights.streaming",
    "Tied": "attention_bridge.weights.layout",
    "Unused": "attention_bridge.weights.layout",
    "ZeroBias": "attention_bridge.weights.layout",
    "convert": "attention_bridge.weights.engine",
    "draft_layout": "attention_bridge.weights.draft.drafting",
    "explain": "attention_bridge.weights.explanation",
    "plan": "attention_bridge.weights.trees",
    "stream": "attention_bridge.weights.streaming",
    "transfer": "attention_bridge.weights.trees",
}
__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
