"""`hf.bert` and `hf.distilbert`: Hugging Face `BertModel`, `RobertaModel` and `DistilBertModel`.

Inside a model with a head, their names have the prefix `bert.`, `roberta.` or `distilbert.`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/bert/modeling_bert.py
"""

import numpy as np

from attention_bridge.weights.layout import Constant, Layout, Unused
from attention_bridge.weights.rule import Rule


def counted(shape: tuple[int, ...]) -> np.ndarray:
    """0, 1, 2, ... along the last axis."""
    return np.broadcast_to(np.arange(shape[-1]), shape)


HEADS = tuple(
    Unused(name, "a task head, not part of the encoder")
    for name in ("cls.{rest}", "lm_head.{rest}", "classifier.{rest}", "qa_outputs.{rest}", "pooler.{rest}")
)
DISTILBERT_HEADS = tuple(
    Unused(name, "a task head, not part of the encoder")
    for name in ("vocab_{rest}", "pre_classifier.{rest}", "classifier.{rest}", "qa_outputs.{rest}")
)

EMBEDDINGS = (
    Rule("embeddings.{word,position,token_type}_embeddings.weight", "{token,position,type}_embedding.weight"),
    Rule("embeddings.LayerNorm.{name}", "embedding_norm.{name}"),
)
# The rules of a layer besides the projections of queries, keys and values.
SUBLAYERS = (
    Rule("encoder.layer.{n}.attention.output.dense.{name}", "layers.{n}.attention.out_proj.{name}"),
    Rule("encoder.layer.{n}.attention.output.LayerNorm.{name}", "layers.{n}.attention_norm.{name}"),
    Rule("encoder.layer.{n}.intermediate.dense.{name}", "layers.{n}.ffn.up_proj.{name}"),
    Rule("encoder.layer.{n}.output.dense.{name}", "layers.{n}.ffn.down_proj.{name}"),
    Rule("encoder.layer.{n}.output.LayerNorm.{name}", "layers.{n}.ffn_norm.{name}"),
)

HF_BERT = Layout(
    "hf.bert",
    rules=(
        *EMBEDDINGS,
        Rule(
            "encoder.layer.{n}.attention.self.{query,key,value}.{name}",
            "layers.{n}.attention.{q,k,v}_proj.{name}",
        ),
        *SUBLAYERS,
        Rule("pooler.dense.{name}", "pooler.{name}"),
    ),
    spellings=(
        ("bert.{rest}", "{rest}"),
        ("roberta.{rest}", "{rest}"),
        ("{path}LayerNorm.gamma", "{path}LayerNorm.weight"),
        ("{path}LayerNorm.beta", "{path}LayerNorm.bias"),
    ),
    constants=(Constant("embeddings.position_ids", counted, "always 0, 1, 2, ..."),),
    unused=HEADS,
)

HF_DISTILBERT = Layout(
    "hf.distilbert",
    rules=(
        Rule("embeddings.{word,position}_embeddings.weight", "{token,position}_embedding.weight"),
        Rule("embeddings.LayerNorm.{name}", "embedding_norm.{name}"),
        Rule(
            "transformer.layer.{n}.attention.{q,k,v,out}_lin.{name}",
            "layers.{n}.attention.{q,k,v,out}_proj.{name}",
        ),
        Rule("transformer.layer.{n}.sa_layer_norm.{name}", "layers.{n}.attention_norm.{name}"),
        Rule("transformer.layer.{n}.ffn.lin1.{name}", "layers.{n}.ffn.up_proj.{name}"),
        Rule("transformer.layer.{n}.ffn.lin2.{name}", "layers.{n}.ffn.down_proj.{name}"),
        Rule("transformer.layer.{n}.output_layer_norm.{name}", "layers.{n}.ffn_norm.{name}"),
    ),
    spellings=(("distilbert.{rest}", "{rest}"),),
    unused=DISTILBERT_HEADS,
)
