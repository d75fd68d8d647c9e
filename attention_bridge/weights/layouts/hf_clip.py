"""`hf.clip`: Hugging Face `CLIPModel`; its patch projection has no bias.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/clip/modeling_clip.py
"""

from attention_bridge.weights.layout import Constant, Layout, Unused, ZeroBias
from attention_bridge.weights.layouts.hf_bert import counted
from attention_bridge.weights.rule import Rule


def _tower(theirs: str, ours: str) -> tuple[Rule, ...]:
    theirs, ours = f"{theirs}.encoder.layers.{{n}}.", f"{ours}.layers.{{n}}."
    return (
        Rule(f"{theirs}layer_norm{{1,2}}.{{name}}", f"{ours}{{attention,ffn}}_norm.{{name}}"),
        Rule(
            f"{theirs}self_attn.{{q,k,v,out}}_proj.{{name}}", f"{ours}attention.{{q,k,v,out}}_proj.{{name}}"
        ),
        Rule(f"{theirs}mlp.fc{{1,2}}.{{name}}", f"{ours}ffn.{{up,down}}_proj.{{name}}"),
    )


HF_CLIP = Layout(
    "hf.clip",
    rules=(
        Rule(
            "text_model.embeddings.{token,position}_embedding.weight",
            "text.{token,position}_embedding.weight",
        ),
        *_tower("text_model", "text"),
        Rule("text_model.final_layer_norm.{name}", "text.final_norm.{name}"),
        Rule("text_projection.weight", "text_proj.weight"),
        Rule("vision_model.embeddings.class_embedding", "image.patches.class_token"),
        Rule("vision_model.embeddings.position_embedding.weight", "image.patches.positions"),
        Rule("vision_model.embeddings.patch_embedding.weight", "image.patches.patch_proj.weight"),
        Rule("vision_model.{pre_layrnorm,post_layernorm}.{name}", "image.{embedding,final}_norm.{name}"),
        *_tower("vision_model", "image"),
        Rule("visual_projection.weight", "image_proj.weight"),
        Rule("logit_scale", "logit_scale"),
    ),
    constants=tuple(
        Constant(f"{tower}_model.embeddings.position_ids", counted, "always 0, 1, 2, ...")
        for tower in ("text", "vision")
    ),
    unused=(Unused("classifier.{rest}", "a classifier of images, not part of the towers"),),
    zero_biases=(
        ZeroBias("image.patches.patch_proj.bias", "image.patches.patch_proj.weight", "patches have no bias"),
    ),
)
