"""Parity: comparison of two modules, and the proof of every mechanism against its float64 oracle."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention_bridge.parity.certificates import Certificate as Certificate
    from attention_bridge.parity.certificates.modules import certify as certify
    from attention_bridge.parity.comparison import Difference as Difference
    from attention_bridge.parity.comparison import assert_parity as assert_parity
    from attention_bridge.parity.comparison import compare as compare
    from attention_bridge.parity.comparison import differences as differences
    from attention_bridge.parity.comparison import gradient_scales as gradient_scales
    from attention_bridge.parity.comparison import pinned_precision as pinned_precision
    from attention_bridge.parity.comparison import same_bits as same_bits

# Public names and their modules; a module is imported when its name is first used.
PUBLIC = {
    "Certificate": "attention_bridge.parity.certificates",
    "Difference": "attention_bridge.parity.comparison",
    "assert_parity": "attention_bridge.parity.comparison",
    "certify": "attention_bridge.parity.certificates.modules",
    "compare": "attention_bridge.parity.comparison",
    "differences": "attention_bridge.parity.comparison",
    "gradient_scales": "attention_bridge.parity.comparison",
    "pinned_precision": "attention_bridge.parity.comparison",
    "same_bits": "attention_bridge.parity.comparison",
}
__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
