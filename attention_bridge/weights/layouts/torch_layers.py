"""`torch.encoder_layer` and `torch.decoder_layer`: `torch.nn.TransformerEncoderLayer` and `TransformerDecoderLayer`.

They cover post-norm and pre-norm layers, and the layers of a whole `TransformerEncoder`. The equivalents in the
mirrors are `EncoderLayer` (`ViTBlock` with `norm_first`) and, for a decoder layer, `EncoderDecoderAttention`.

https://docs.pytorch.org/docs/stable/generated/torch.nn.TransformerEncoderLayer.html
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.torch_mha import packed_rules
from attention_bridge.weights.rule import Rule

FFN = Rule("{path}linear{1,2}.{name}", "{path}ffn.{up,down}_proj.{name}")

TORCH_ENCODER_LAYER = Layout(
    "torch.encoder_layer",
    rules=(
        *packed_rules("self_attn.", "attention."),
        FFN,
        Rule("{path}norm{1,2}.{name}", "{path}{attention,ffn}_norm.{name}"),
        Rule("norm.{name}", "final_norm.{name}"),
    ),
)

TORCH_DECODER_LAYER = Layout(
    "torch.decoder_layer",
    rules=(
        *packed_rules("self_attn.", "self_attention."),
        *packed_rules("multihead_attn.", "cross_attention."),
        FFN,
        Rule("{path}norm{1,2,3}.{name}", "{path}{self,cross,ffn}_norm.{name}"),
        Rule("norm.{name}", "final_norm.{name}"),
    ),
)
