"""`hf.ernie`: Hugging Face `ErnieModel`, with the tensor names of BERT and a task embedding.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/ernie/modeling_ernie.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_bert import HF_BERT
from attention_bridge.weights.rule import Rule

HF_ERNIE: Layout = replace(
    HF_BERT,
    name="hf.ernie",
    rules=(Rule("embeddings.task_type_embeddings.weight", "task_embedding.weight"), *HF_BERT.rules),
    spellings=(("ernie.{rest}", "{rest}"), *HF_BERT.spellings[2:]),
)
