"""`hf.esm`: Hugging Face `EsmModel`, a protein language model.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/esm/modeling_esm.py
"""

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.layouts.hf_bert import HEADS, HF_BERT
from attention_bridge.weights.rule import Rule

LAYER = "encoder.layer.{n}."

HF_ESM = Layout(
    "hf.esm",
    rules=(
        Rule("embeddings.word_embeddings.weight", "token_embedding.weight"),
        Rule("embeddings.layer_norm.{name}", "embedding_norm.{name}"),
        Rule(LAYER + "attention.self.{query,key,value}.{name}", "layers.{n}.attention.{q,k,v}_proj.{name}"),
        Rule(LAYER + "attention.output.dense.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule(LAYER + "attention.LayerNorm.{name}", "layers.{n}.attention_norm.{name}"),
        Rule(LAYER + "LayerNorm.{name}", "layers.{n}.ffn_norm.{name}"),
        Rule(LAYER + "intermediate.dense.{name}", "layers.{n}.ffn.up_proj.{name}"),
        Rule(LAYER + "output.dense.{name}", "layers.{n}.ffn.down_proj.{name}"),
        Rule("encoder.emb_layer_norm_after.{name}", "final_norm.{name}"),
    ),
    spellings=(("esm.{rest}", "{rest}"), *HF_BERT.spellings[2:]),
    constants=HF_BERT.constants,
    dropped=(
        Dropped("{path}rotary_embeddings.inv_freq", "recomputed from the base"),
        Dropped("rotary_embeddings.inv_freq", "recomputed from the base"),
        Dropped("contact_head.regression.{name}", "contacts of residues, which the mirrors do not predict"),
        Dropped("embeddings.position_embeddings.weight", "unused with rotary positions"),
    ),
    unused=HEADS,
)
