"""`hf.longformer`: Hugging Face `LongformerModel`, RoBERTa with a window and projections of global tokens.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/longformer/modeling_longformer.py
"""

from dataclasses import replace

from attention_bridge.weights.layouts.hf_bert import HF_BERT
from attention_bridge.weights.rule import Rule

GLOBAL = Rule(
    "encoder.layer.{n}.attention.self.{query,key,value}_global.{name}",
    "layers.{n}.attention.global_{q,k,v}_proj.{name}",
)
HF_LONGFORMER = replace(
    HF_BERT,
    name="hf.longformer",
    rules=(*HF_BERT.rules, GLOBAL),
    spellings=(("longformer.{rest}", "{rest}"), *HF_BERT.spellings[2:]),
)
