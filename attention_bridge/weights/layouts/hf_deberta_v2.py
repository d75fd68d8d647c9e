"""`hf.deberta_v2`: Hugging Face `DebertaV2Model`, DeBERTa 2 and 3, whose layers share the distance embeddings.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/deberta_v2/modeling_deberta_v2.py
"""

from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.layouts.hf_bert import EMBEDDINGS, HF_BERT, SUBLAYERS
from attention_bridge.weights.rule import Rule

DISTANCES = (
    Rule("encoder.rel_embeddings.weight", "position.relative_embedding.weight"),
    Rule("encoder.LayerNorm.{name}", "position.norm.{name}"),
)
HF_DEBERTA_V2 = Layout(
    "hf.deberta_v2",
    rules=(
        *EMBEDDINGS,
        Rule(
            "encoder.layer.{n}.attention.self.{query,key,value}_proj.{name}",
            "layers.{n}.attention.{q,k,v}_proj.{name}",
        ),
        Rule(
            "encoder.layer.{n}.attention.self.pos_{query,key}_proj.{name}",
            "layers.{n}.attention.relative_{q,k}_proj.{name}",
        ),
        *SUBLAYERS,
        *DISTANCES,
    ),
    spellings=(("deberta.{rest}", "{rest}"), *HF_BERT.spellings[2:]),
    constants=HF_BERT.constants,
    unused=tuple(
        Unused(name, "a task head, not part of the encoder")
        for name in (
            "cls.{rest}",
            "lm_predictions.{rest}",
            "mask_predictions.{rest}",
            "classifier.{rest}",
            "qa_outputs.{rest}",
            "pooler.{rest}",
        )
    ),
)
