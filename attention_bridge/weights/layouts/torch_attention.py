"""`torch_attention`, the hub: what `state_dict()` of the PyTorch mirror holds.

Linear weights are (out, in). The path of a norm ends in `norm`, that of an embedding in `_embedding`, and no other
path does.
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.rule import Rule

TORCH_ATTENTION = Layout("torch_attention", rules=(Rule("{rest}", "{rest}"),))
