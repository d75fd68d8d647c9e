"""`torch_attention`, the canonical layout: the state dict of the PyTorch mirror.

Linear weights are (out, in). Paths of norms end in `norm`, paths of embeddings end in `_embedding`, and no other
paths do.
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.rule import Rule

TORCH_ATTENTION = Layout("torch_attention", rules=(Rule("{rest}", "{rest}"),))
