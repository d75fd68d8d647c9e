"""`hf.roformer`: Hugging Face `RoFormerModel`, with the tensor names of BERT and rotary positions.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/roformer/modeling_roformer.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.layouts.hf_bert import HF_BERT
from attention_bridge.weights.rule import Rule

POSITIONS = "encoder.embed_positions.weight"

HF_ROFORMER: Layout = replace(
    HF_BERT,
    name="hf.roformer",
    rules=(
        *(rule for rule in HF_BERT.rules if not rule.theirs.startswith("pooler.")),
        Rule("embeddings_project.{name}", "embedding_proj.{name}"),
    ),
    spellings=(("roformer.{rest}", "{rest}"), *HF_BERT.spellings[2:]),
    constants=(),
    dropped=(Dropped(POSITIONS, "the sines and cosines of the rotary positions, which are recomputed"),),
)
