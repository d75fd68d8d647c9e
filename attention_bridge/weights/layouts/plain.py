"""`plain`: the identity, for the other end of a layout of one's own.

Any name is a name of this layout, and all axes keep their order: `transfer(source, target, source_layout=MINE,
target_layout="plain")` applies the rules of `MINE` alone.
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.rule import Rule

PLAIN = Layout("plain", rules=(Rule("{path}{rest}", "{path}{rest}"),))
