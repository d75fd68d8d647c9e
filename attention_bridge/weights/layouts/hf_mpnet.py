"""`hf.mpnet`: Hugging Face `MPNetModel`, whose layers share one table of position biases.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/mpnet/modeling_mpnet.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_bert import HEADS, HF_BERT
from attention_bridge.weights.rule import Rule

HF_MPNET = Layout(
    "hf.mpnet",
    rules=(
        Rule("embeddings.{word,position}_embeddings.weight", "{token,position}_embedding.weight"),
        Rule("embeddings.LayerNorm.{name}", "embedding_norm.{name}"),
        Rule("encoder.relative_attention_bias.weight", "position.bias_embedding.weight"),
        Rule(
            "encoder.layer.{n}.attention.attn.{q,k,v,o}.{name}",
            "layers.{n}.attention.{q,k,v,out}_proj.{name}",
        ),
        Rule("encoder.layer.{n}.attention.LayerNorm.{name}", "layers.{n}.attention_norm.{name}"),
        Rule("encoder.layer.{n}.intermediate.dense.{name}", "layers.{n}.ffn.up_proj.{name}"),
        Rule("encoder.layer.{n}.output.dense.{name}", "layers.{n}.ffn.down_proj.{name}"),
        Rule("encoder.layer.{n}.output.LayerNorm.{name}", "layers.{n}.ffn_norm.{name}"),
        Rule("pooler.dense.{name}", "pooler.{name}"),
    ),
    spellings=(("mpnet.{rest}", "{rest}"),),
    constants=HF_BERT.constants,
    unused=HEADS,
)
