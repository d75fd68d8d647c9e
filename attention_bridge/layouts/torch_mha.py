"""`torch.mha`: `torch.nn.MultiheadAttention`; its projections are packed, or separate where `kdim` or `vdim` differ.

The learned key and value of `add_bias_kv=True` are the memory of `PersistentMemoryAttention`. `add_zero_attn=True` has
no tensors, so nothing here can tell of it: its key and value of zeros are not converted.

https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.rule import Rule

TORCH_MHA = Layout(
    "torch.mha",
    rules=(
        Rule("{path}in_proj_weight", "{path}{q,k,v}_proj.weight", "(three e) i -> three e i"),
        Rule("{path}in_proj_bias", "{path}{q,k,v}_proj.bias", "(three e) -> three e"),
        Rule("{path}{q,k,v}_proj_weight", "{path}{q,k,v}_proj.weight"),
        Rule("{path}out_proj.{name}", "{path}out_proj.{name}"),
        Rule("{path}bias_k", "{path}memory_key", "1 1 e -> 1 e"),
        Rule("{path}bias_v", "{path}memory_value", "1 1 e -> 1 e"),
    ),
)
