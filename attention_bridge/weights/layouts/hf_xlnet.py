"""`hf.xlnet`: Hugging Face `XLNetModel`, whose projections have one axis for heads and one for their features.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/xlnet/modeling_xlnet.py
"""

from attention_bridge.weights.layout import Dropped, Layout, Unused
from attention_bridge.weights.rule import Rule

LAYER, OURS = "layer.{n}.rel_attn.", "layers.{n}.attention."
HEADS = ("sequence_summary", "logits_proj", "classifier", "qa_outputs", "lm_loss")
ANSWERS = ("start_logits", "end_logits", "answer_class")  # of answers from a beam search

HF_XLNET = Layout(
    "hf.xlnet",
    rules=(
        Rule("word_embedding.weight", "token_embedding.weight"),
        Rule(LAYER + "{q,k,v}", OURS + "{q,k,v}_proj.weight", "e h d -> (h d) e"),
        Rule(LAYER + "o", OURS + "out_proj.weight", "e h d -> e (h d)"),
        Rule(LAYER + "r", OURS + "position.distance_weight"),
        Rule(LAYER + "{r_w,r_r,r_s}_bias", OURS + "position.{content,distance,segment}_bias"),
        Rule(LAYER + "seg_embed", OURS + "position.segment_vectors"),
        Rule(LAYER + "layer_norm.{name}", "layers.{n}.attention_norm.{name}"),
        Rule("layer.{n}.ff.{layer_1,layer_2}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
        Rule("layer.{n}.ff.layer_norm.{name}", "layers.{n}.ffn_norm.{name}"),
        Rule("lm_loss.weight", "head.weight"),
    ),
    spellings=(("transformer.{rest}", "{rest}"),),
    dropped=(Dropped("mask_emb", "the embedding of the tokens to predict in pretraining"),),
    unused=tuple(
        Unused(f"{name}.{{rest}}", "a task head, not part of the encoder") for name in (*HEADS, *ANSWERS)
    ),
)
