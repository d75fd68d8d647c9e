"""`hf.swinv2`: Hugging Face `Swinv2Model` and `Swinv2ForImageClassification`; keys have no biases.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/swinv2/modeling_swinv2.py
"""

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.layouts.hf_swin import (
    BETWEEN,
    EMBEDDINGS,
    HEADS,
    LAYER,
    OTHERS,
    OURS,
    without_biases,
)
from attention_bridge.weights.rule import Rule

COSINE = OURS + "attention."

_HF_SWINV2 = Layout(
    "hf.swinv2",
    rules=(
        *EMBEDDINGS,
        Rule(LAYER + "layernorm_{before,after}.{rest}", OURS + "{attention,ffn}_output_norm.{rest}"),
        Rule(LAYER + "attention.self.{query,key,value}.{rest}", COSINE + "{q,k,v}_proj.{rest}"),
        Rule(LAYER + "attention.self.logit_scale", COSINE + "logit_scale", "heads 1 1 -> heads"),
        Rule(
            LAYER + "attention.self.continuous_position_bias_mlp.{0,2}.{rest}",
            COSINE + "{position_hidden,position}_proj.{rest}",
        ),
        Rule(LAYER + "attention.output.dense.{rest}", COSINE + "out_proj.{rest}"),
        Rule(LAYER + "{intermediate,output}.dense.{rest}", OURS + "ffn.{up,down}_proj.{rest}"),
        *BETWEEN,
    ),
    dropped=(
        *OTHERS,
        Dropped(LAYER + "attention.self.relative_coords_table", "offsets, which are recomputed"),
    ),
    unused=HEADS,
    spellings=(("swinv2.{rest}", "{rest}"),),
)
HF_SWINV2 = without_biases(_HF_SWINV2, "k", COSINE)
HF_SWINV2_UNBIASED = without_biases(_HF_SWINV2, "qkv", COSINE)
