"""`hf.xlm_roberta_xl`: Hugging Face `XLMRobertaXLModel`, an encoder with the names of BERT and norms before sublayers.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/xlm_roberta_xl/modeling_xlm_roberta_xl.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_bert import HF_BERT
from attention_bridge.weights.rule import Rule

LAYER = "encoder.layer.{n}."

HF_XLM_ROBERTA_XL = Layout(
    "hf.xlm_roberta_xl",
    rules=(
        Rule(
            "embeddings.{word,position,token_type}_embeddings.weight",
            "{token,position,type}_embedding.weight",
        ),
        Rule(LAYER + "attention.self.{query,key,value}.{name}", "layers.{n}.attention.{q,k,v}_proj.{name}"),
        Rule(LAYER + "attention.output.dense.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule(LAYER + "attention.self_attn_layer_norm.{name}", "layers.{n}.attention_norm.{name}"),
        Rule(LAYER + "LayerNorm.{name}", "layers.{n}.ffn_norm.{name}"),
        Rule(LAYER + "intermediate.dense.{name}", "layers.{n}.ffn.up_proj.{name}"),
        Rule(LAYER + "output.dense.{name}", "layers.{n}.ffn.down_proj.{name}"),
        Rule("encoder.LayerNorm.{name}", "final_norm.{name}"),
        Rule("pooler.dense.{name}", "pooler.{name}"),
    ),
    spellings=HF_BERT.spellings,
    constants=HF_BERT.constants,
    unused=HF_BERT.unused,
)
