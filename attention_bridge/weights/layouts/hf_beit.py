"""`hf.beit`: Hugging Face `BeitModel` and `BeitForImageClassification`; keys have no biases.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/beit/modeling_beit.py
"""

from attention_bridge.weights.layout import Dropped, Layout, Unused
from attention_bridge.weights.layouts.hf_vit import HF_VIT, LAYER, without_biases
from attention_bridge.weights.rule import Rule

TABLE = "relative_position_bias.relative_position_bias_table"
SHARED = (
    "classifier.{name}",
    "pooler.dense.{name}",
    "embeddings.distillation_token",
)  # rules that BEiT has not

HF_BEIT = without_biases(
    Layout(
        "hf.beit",
        rules=(
            *(rule for rule in HF_VIT.rules if rule.theirs not in SHARED),
            Rule(LAYER + "lambda_{1,2}", "layers.{n}.{attention,ffn}_output_norm.factors"),
            Rule(LAYER + "attention.attention." + TABLE, "layers.{n}.attention.position.position_bias"),
            Rule("encoder." + TABLE, "position.position_bias"),
            Rule("pooler.layernorm.{name}", "pooling.norm.{name}"),
        ),
        dropped=(
            Dropped("embeddings.mask_token", "the embedding of masked patches in pretraining"),
            Dropped(
                "encoder.relative_position_bias.relative_position_index", "rows of the table, recomputed"
            ),
            Dropped(
                LAYER + "attention.attention.relative_position_bias.relative_position_index",
                "rows of the table, which are recomputed",
            ),
        ),
        unused=tuple(
            Unused(f"{name}.{{rest}}", "a task head, not part of the encoder")
            for name in (
                "classifier",
                "lm_head",
                "decode_head",
                "auxiliary_head",
                "fpn",
                "fpn1",
                "fpn2",
                "fpn3",
                "fpn4",
            )
        ),
        spellings=(
            ("beit.{rest}", "{rest}"),
            ("layers.{n}.lambda_{rest}", "encoder.layer.{n}.lambda_{rest}"),
            ("layers.{n}." + TABLE, LAYER + "attention.attention." + TABLE),
            ("shared_position_bias.relative_position_bias_table", "encoder." + TABLE),
            *HF_VIT.spellings,
        ),
    ),
    "k",
)
