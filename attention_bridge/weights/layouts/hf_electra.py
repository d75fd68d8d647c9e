"""`hf.electra`: Hugging Face `ElectraModel`, with the tensor names of BERT and a projection of the embeddings.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/electra/modeling_electra.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.layouts.hf_bert import HF_BERT
from attention_bridge.weights.rule import Rule

HEADS = (
    "discriminator_predictions.{rest}",
    "generator_predictions.{rest}",
    "generator_lm_head.{rest}",
    "sequence_summary.{rest}",
    "classifier.{rest}",
    "qa_outputs.{rest}",
)

HF_ELECTRA: Layout = replace(
    HF_BERT,
    name="hf.electra",
    rules=(
        *(rule for rule in HF_BERT.rules if not rule.theirs.startswith("pooler.")),
        Rule("embeddings_project.{name}", "embedding_proj.{name}"),
    ),
    spellings=(("electra.{rest}", "{rest}"), *HF_BERT.spellings[2:]),
    unused=tuple(Unused(name, "a task head, not part of the encoder") for name in HEADS),
)
