"""`hf.dinov3`: Hugging Face `DINOv3ViTModel`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/dinov3_vit/modeling_dinov3_vit.py
"""

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.rule import Rule

LAYER, OURS = "layer.{n}.", "layers.{n}."

HF_DINOV3 = Layout(
    "hf.dinov3",
    rules=(
        Rule("embeddings.cls_token", "patches.class_token", "1 1 e -> e"),
        Rule("embeddings.register_tokens", "patches.registers", "1 n e -> n e"),
        Rule("embeddings.patch_embeddings.{name}", "patches.patch_proj.{name}"),
        Rule(LAYER + "norm{1,2}.{name}", OURS + "{attention,ffn}_norm.{name}"),
        Rule(LAYER + "attention.{q,k,v,o}_proj.{name}", OURS + "attention.{q,k,v,out}_proj.{name}"),
        Rule(LAYER + "layer_scale{1,2}.lambda1", OURS + "{attention,ffn}_output_norm.factors"),
        Rule(LAYER + "mlp.{gate,up,down}_proj.{name}", OURS + "ffn.{gate,up,down}_proj.{name}"),
        Rule("norm.{name}", "final_norm.{name}"),
    ),
    dropped=(Dropped("embeddings.mask_token", "the embedding of masked patches in pretraining"),),
    spellings=(("model.layer.{rest}", "layer.{rest}"),),
)
