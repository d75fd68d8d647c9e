"""`hf.big_bird`: Hugging Face `BigBirdModel`, BERT with another pooler.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/big_bird/modeling_big_bird.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Unused
from attention_bridge.weights.layouts.hf_bert import HEADS, HF_BERT
from attention_bridge.weights.rule import Rule

HF_BIG_BIRD = replace(
    HF_BERT,
    name="hf.big_bird",
    rules=(
        *(rule for rule in HF_BERT.rules if rule.hub != "pooler.{name}"),
        Rule("pooler.{name}", "pooler.{name}"),
    ),
    spellings=(("bert.{rest}", "{rest}"), *HF_BERT.spellings[2:]),
    unused=(*HEADS, Unused("qa_classifier.{rest}", "a task head, not part of the encoder")),
)
