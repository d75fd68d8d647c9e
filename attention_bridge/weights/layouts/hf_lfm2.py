"""`hf.lfm2`: Hugging Face `Lfm2ForCausalLM`, gated short convolutions and attention.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/lfm2/modeling_lfm2.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, SPELLINGS
from attention_bridge.weights.rule import Rule

HF_LFM2 = Layout(
    "hf.lfm2",
    rules=(
        Rule("model.embed_tokens.weight", "token_embedding.weight"),
        Rule(LAYER + "{operator,ffn}_norm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        Rule(LAYER + "self_attn.{q,k,v,out}_proj.weight", "layers.{n}.attention.{q,k,v,out}_proj.weight"),
        Rule(LAYER + "self_attn.{q,k}_layernorm.weight", "layers.{n}.attention.{q,k}_norm.weight"),
        Rule(
            LAYER + "conv.{in_proj,conv,out_proj}.{name}",
            "layers.{n}.attention.{in_proj,conv,out_proj}.{name}",
        ),
        Rule(LAYER + "feed_forward.{w1,w3,w2}.weight", "layers.{n}.ffn.{gate,up,down}_proj.weight"),
        Rule("model.embedding_norm.weight", "final_norm.weight"),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=(*SPELLINGS, ("embedding_norm.weight", "model.embedding_norm.weight")),
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
