"""`hf.albert`: Hugging Face `AlbertModel`, whose layers share one set of weights.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/albert/modeling_albert.py
"""

from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.layouts.hf_bert import EMBEDDINGS, HF_BERT
from attention_bridge.weights.rule import Rule

LAYER = "encoder.albert_layer_groups.0.albert_layers.0."

HF_ALBERT = Layout(
    "hf.albert",
    rules=(
        *EMBEDDINGS,
        Rule("encoder.embedding_hidden_mapping_in.{name}", "embedding_proj.{name}"),
        Rule(
            f"{LAYER}attention.{{query,key,value,dense}}.{{name}}",
            "layers.0.attention.{q,k,v,out}_proj.{name}",
        ),
        Rule(f"{LAYER}attention.LayerNorm.{{name}}", "layers.0.attention_norm.{name}"),
        Rule(f"{LAYER}ffn.{{name}}", "layers.0.ffn.up_proj.{name}"),
        Rule(f"{LAYER}ffn_output.{{name}}", "layers.0.ffn.down_proj.{name}"),
        Rule(f"{LAYER}full_layer_layer_norm.{{name}}", "layers.0.ffn_norm.{name}"),
        Rule("pooler.{name}", "pooler.{name}"),
    ),
    spellings=(("albert.{rest}", "{rest}"),),
    constants=HF_BERT.constants,
    unused=tuple(
        Unused(name, "a task head, not part of the encoder")
        for name in (
            "predictions.{rest}",
            "sop_classifier.{rest}",
            "classifier.{rest}",
            "qa_outputs.{rest}",
            "pooler.{rest}",
        )
    ),
)
