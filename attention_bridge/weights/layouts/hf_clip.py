"""`hf.clip`: Hugging Face `CLIPModel`; its patch projection has no bias.

`hf.clip_text` and `hf.clip_vision` are one tower alone, `CLIPTextModel` and `CLIPVisionModel`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/clip/modeling_clip.py
"""

from attention_bridge.weights.layout import Constant, Layout, Unused, ZeroBias
from attention_bridge.weights.layouts.hf_bert import counted
from attention_bridge.weights.rule import Rule


def tower(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of a tower's layers, for the paths of the tower in the file and in the mirrors' model."""
    theirs, ours = f"{theirs}.encoder.layers.{{n}}.", f"{ours}.layers.{{n}}."
    return (
        Rule(f"{theirs}layer_norm{{1,2}}.{{name}}", f"{ours}{{attention,ffn}}_norm.{{name}}"),
        Rule(
            f"{theirs}self_attn.{{q,k,v,out}}_proj.{{name}}", f"{ours}attention.{{q,k,v,out}}_proj.{{name}}"
        ),
        Rule(f"{theirs}mlp.fc{{1,2}}.{{name}}", f"{ours}ffn.{{up,down}}_proj.{{name}}"),
    )


TEXT = (
    Rule("text_model.embeddings.{token,position}_embedding.weight", "text.{token,position}_embedding.weight"),
    *tower("text_model", "text"),
    Rule("text_model.final_layer_norm.{name}", "text.final_norm.{name}"),
)
IMAGE = (
    Rule("vision_model.embeddings.class_embedding", "image.patches.class_token"),
    Rule("vision_model.embeddings.position_embedding.weight", "image.patches.positions"),
    Rule("vision_model.embeddings.patch_embedding.weight", "image.patches.patch_proj.weight"),
    Rule("vision_model.{pre_layrnorm,post_layernorm}.{name}", "image.{embedding,final}_norm.{name}"),
    *tower("vision_model", "image"),
)
CONSTANTS = tuple(
    Constant(f"{tower}_model.embeddings.position_ids", counted, "always 0, 1, 2, ...")
    for tower in ("text", "vision")
)
PATCHES = (
    ZeroBias("image.patches.patch_proj.bias", "image.patches.patch_proj.weight", "patches have no bias"),
)
CLASSIFIER = Unused("classifier.{rest}", "a classifier of images, not part of the towers")

HF_CLIP = Layout(
    "hf.clip",
    rules=(
        *TEXT,
        Rule("text_projection.weight", "text_proj.weight"),
        *IMAGE,
        Rule("visual_projection.weight", "image_proj.weight"),
        Rule("logit_scale", "logit_scale"),
    ),
    constants=CONSTANTS,
    unused=(CLASSIFIER,),
    zero_biases=PATCHES,
)


def _alone(name: str, tower: str, parts: tuple[str, ...]) -> Layout:
    """One tower under `backbone`, and its projection."""
    ours, projection = (
        ("text", "text_projection") if tower == "text_model" else ("image", "visual_projection")
    )
    rules = [
        Rule(rule.theirs, rule.hub.replace(f"{ours}.", "backbone.", 1))
        for rule in (TEXT if ours == "text" else IMAGE)
    ]
    others = (
        "text_model.{rest}",
        "vision_model.{rest}",
        "text_projection.{rest}",
        "visual_projection.{rest}",
    )
    return Layout(
        name,
        rules=(*rules, Rule(f"{projection}.weight", "head.feature_proj.weight")),
        spellings=tuple((f"{part}.{{rest}}", f"{tower}.{part}.{{rest}}") for part in parts),
        constants=CONSTANTS,
        unused=(CLASSIFIER, *(Unused(each, "not part of this tower") for each in (*others, "logit_scale"))),
        zero_biases=()
        if ours == "text"
        else (
            ZeroBias(
                "backbone.patches.patch_proj.bias",
                "backbone.patches.patch_proj.weight",
                "patches have no bias",
            ),
        ),
    )


HF_CLIP_TEXT = _alone("hf.clip_text", "text_model", ("embeddings", "encoder", "final_layer_norm"))
HF_CLIP_VISION = _alone(
    "hf.clip_vision", "vision_model", ("embeddings", "encoder", "pre_layrnorm", "post_layernorm")
)
