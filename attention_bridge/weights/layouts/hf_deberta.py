"""`hf.deberta`: Hugging Face `DebertaModel`, DeBERTa 1, whose projections are joined head by head.

Keys and their distance embeddings have no biases.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/deberta/modeling_deberta.py
"""

from attention_bridge.weights.layout import Layout, ZeroBias
from attention_bridge.weights.layouts.hf_bert import EMBEDDINGS, SUBLAYERS
from attention_bridge.weights.layouts.hf_deberta_v2 import HF_DEBERTA_V2
from attention_bridge.weights.rule import Rule

LAYER, OURS = "encoder.layer.{n}.attention.self", "layers.{n}.attention"
HF_DEBERTA = Layout(
    "hf.deberta",
    rules=(
        *EMBEDDINGS,
        Rule(f"{LAYER}.in_proj.weight", f"{OURS}.{{q,k,v}}_proj.weight", "(h three d) e -> three (h d) e"),
        Rule(f"{LAYER}.{{q,v}}_bias", f"{OURS}.{{q,v}}_proj.bias"),
        Rule(f"{LAYER}.pos_q_proj.{{name}}", f"{OURS}.relative_q_proj.{{name}}"),
        Rule(f"{LAYER}.pos_proj.weight", f"{OURS}.relative_k_proj.weight"),
        *SUBLAYERS,
        Rule("encoder.rel_embeddings.weight", "position.relative_embedding.weight"),
    ),
    spellings=HF_DEBERTA_V2.spellings,
    constants=HF_DEBERTA_V2.constants,
    unused=HF_DEBERTA_V2.unused,
    zero_biases=tuple(
        ZeroBias(f"{OURS}.{part}_proj.bias", f"{OURS}.{part}_proj.weight", f"{what} have no bias")
        for part, what in (("k", "keys"), ("relative_k", "distances as keys"))
    ),
)
