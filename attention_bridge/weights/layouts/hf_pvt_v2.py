"""`hf.pvt_v2`: Hugging Face `PvtV2Model` and `PvtV2ForImageClassification`.

In the patterns, `{n}` is a stage, `{name}` a layer of it and `{rest}` a parameter.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/pvt_v2/modeling_pvt_v2.py
"""

from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.layouts.hf_swin import OURS, without_biases
from attention_bridge.weights.rule import Rule

STAGE, LAYER = "encoder.layers.{n}.", "encoder.layers.{n}.blocks.{name}."
ATTENTION = OURS + "attention."

HF_PVT_V2 = Layout(
    "hf.pvt_v2",
    rules=(
        Rule(
            STAGE + "patch_embedding.{proj,layer_norm}.{rest}",
            "stages.{n}.embedding.{patch_proj,norm}.{rest}",
        ),
        Rule(LAYER + "layer_norm_{1,2}.{rest}", OURS + "{attention,ffn}_norm.{rest}"),
        Rule(LAYER + "attention.{query,key,value,proj}.{rest}", ATTENTION + "{q,k,v,out}_proj.{rest}"),
        Rule(
            LAYER + "attention.{spatial_reduction,layer_norm}.{rest}",
            ATTENTION + "reduction_{proj,norm}.{rest}",
        ),
        Rule(LAYER + "mlp.dense{1,2}.{rest}", OURS + "ffn.{up,down}_proj.{rest}"),
        Rule(LAYER + "mlp.dwconv.dwconv.{rest}", OURS + "ffn.conv.{rest}"),
        Rule(STAGE + "layer_norm.{rest}", "stages.{n}.norm.{rest}"),
    ),
    unused=(Unused("classifier.{rest}", "a task head, not part of the encoder"),),
    spellings=(("pvt_v2.{rest}", "{rest}"),),
)
HF_PVT_V2_UNBIASED = without_biases(HF_PVT_V2, "qkv", ATTENTION)
