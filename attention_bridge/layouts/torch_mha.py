"""`torch.mha`: `torch.nn.MultiheadAttention`; its projections are packed, or separate where `kdim` or `vdim` differ.

https://docs.pytorch.org/docs/stable/generated/torch.nn.MultiheadAttention.html
"""

from attention_bridge.weights.layout import Layout, Refused
from attention_bridge.weights.rule import Rule

TORCH_MHA = Layout(
    "torch.mha",
    rules=(
        Rule("{path}in_proj_weight", "{path}{q,k,v}_proj.weight", "(three e) i -> three e i"),
        Rule("{path}in_proj_bias", "{path}{q,k,v}_proj.bias", "(three e) -> three e"),
        Rule("{path}{q,k,v}_proj_weight", "{path}{q,k,v}_proj.weight"),
        Rule("{path}out_proj.{name}", "{path}out_proj.{name}"),
    ),
    refused=(
        Refused("{path}bias_k", "the learned extra key of add_bias_kv=True has no place in the mirrors"),
        Refused("{path}bias_v", "the learned extra value of add_bias_kv=True has no place in the mirrors"),
    ),
)
