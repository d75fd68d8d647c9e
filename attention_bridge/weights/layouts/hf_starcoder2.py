"""`hf.starcoder2`: Hugging Face `Starcoder2ForCausalLM`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/starcoder2/modeling_starcoder2.py
"""

from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER, SPELLINGS
from attention_bridge.weights.rule import Rule

HF_STARCODER2 = Layout(
    "hf.starcoder2",
    rules=(
        Rule("model.embed_tokens.weight", "token_embedding.weight"),
        Rule(LAYER + "self_attn.{q,k,v,o}_proj.{name}", "layers.{n}.attention.{q,k,v,out}_proj.{name}"),
        Rule(LAYER + "mlp.c_{fc,proj}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
        Rule(LAYER + "{input,post_attention}_layernorm.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        Rule("model.norm.{name}", "final_norm.{name}"),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
