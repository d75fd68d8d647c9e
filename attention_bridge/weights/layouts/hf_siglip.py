"""`hf.siglip`: Hugging Face `SiglipModel`, the model of SigLIP and of SigLIP 2 with a fixed resolution.

`hf.siglip_text` and `hf.siglip_vision` are one tower alone, `SiglipTextModel` and `SiglipVisionModel`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/siglip/modeling_siglip.py
"""

from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.layouts.hf_clip import CONSTANTS, TEXT, tower
from attention_bridge.weights.rule import Rule

HEAD, POOLING = "vision_model.head.", "image.pooling.attention."
READS = (*TEXT, Rule("text_model.head.{name}", "text_proj.{name}"))
LOOKS = (
    Rule("vision_model.embeddings.position_embedding.weight", "image.patches.positions"),
    Rule("vision_model.embeddings.patch_embedding.{name}", "image.patches.patch_proj.{name}"),
    *tower("vision_model", "image"),
    Rule("vision_model.post_layernorm.{name}", "image.final_norm.{name}"),
    Rule(HEAD + "probe", POOLING + "probes", "1 n e -> n e"),
    Rule(
        HEAD + "attention.in_proj_weight",
        POOLING + "attention.{q,k,v}_proj.weight",
        "(three o) i -> three o i",
    ),
    Rule(HEAD + "attention.in_proj_bias", POOLING + "attention.{q,k,v}_proj.bias", "(three o) -> three o"),
    Rule(HEAD + "attention.out_proj.{name}", POOLING + "attention.out_proj.{name}"),
    Rule(HEAD + "layernorm.{name}", POOLING + "ffn_norm.{name}"),
    Rule(HEAD + "mlp.fc{1,2}.{name}", POOLING + "ffn.{up,down}_proj.{name}"),
)
SCORES = ("logit_scale", "logit_bias")
CLASSIFIER = Unused("classifier.{rest}", "a classifier of images, not part of the towers")

HF_SIGLIP = Layout(
    "hf.siglip",
    rules=(*READS, *LOOKS, *(Rule(name, name, "1 -> ") for name in SCORES)),
    constants=CONSTANTS,
    unused=(CLASSIFIER,),
)


def _alone(name: str, rules: tuple[Rule, ...], path: str, ours: str, parts: tuple[str, ...]) -> Layout:
    """One tower, whose names may lack the prefix of the tower."""
    others = ("text_model.{rest}", "vision_model.{rest}", *SCORES)
    return Layout(
        name,
        rules=tuple(Rule(each.theirs, each.hub.replace(ours, path, 1), each.pattern) for each in rules),
        spellings=tuple((f"{part}.{{rest}}", f"{name[10:]}_model.{part}.{{rest}}") for part in parts),
        constants=CONSTANTS,
        unused=(CLASSIFIER, *(Unused(each, "not part of this tower") for each in others)),
    )


HF_SIGLIP_TEXT = _alone(
    "hf.siglip_text",
    tuple(Rule(each.theirs, each.hub.replace("text_proj.", "head.feature_proj.")) for each in READS),
    "backbone.",
    "text.",
    ("embeddings", "encoder", "final_layer_norm", "head"),
)
HF_SIGLIP_VISION = _alone(
    "hf.siglip_vision", LOOKS, "", "image.", ("embeddings", "encoder", "post_layernorm", "head")
)
