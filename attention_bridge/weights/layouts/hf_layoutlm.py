"""`hf.layoutlm`: Hugging Face `LayoutLMModel`, BERT with the place of each token on a page.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/layoutlm/modeling_layoutlm.py
"""

from dataclasses import replace

from attention_bridge.weights.layouts.hf_bert import HF_BERT
from attention_bridge.weights.rule import Rule

BOXES = Rule(
    "embeddings.{x,y,h,w}_position_embeddings.weight", "box_embedding.{x,y,height,width}_embedding.weight"
)
HF_LAYOUTLM = replace(
    HF_BERT,
    name="hf.layoutlm",
    rules=(*HF_BERT.rules, BOXES),
    spellings=(("layoutlm.{rest}", "{rest}"), *HF_BERT.spellings[2:]),
)
