"""`hf.phi` and `hf.phi3`: Hugging Face `PhiForCausalLM` and `Phi3ForCausalLM`.

Rotary pairs are i and i + rotary_dim / 2. Phi 3 and 4 have one tensor with all queries, all keys and all values: a
single group with g=1, whose d is num_kv_heads * head_dim.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/phi/modeling_phi.py
https://github.com/huggingface/transformers/blob/main/src/transformers/models/phi3/modeling_phi3.py
"""

from attention_bridge.weights.grouped import GroupedRule
from attention_bridge.weights.layout import Layout
from attention_bridge.weights.layouts.hf_glm import HF_GLM
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.layouts.hf_llama import DROPPED, LAYER
from attention_bridge.weights.rule import Rule

HF_PHI = Layout(
    "hf.phi",
    rules=(
        Rule("model.embed_tokens.weight", "token_embedding.weight"),
        Rule(LAYER + "input_layernorm.{name}", "layers.{n}.attention_norm.{name}"),
        Rule(LAYER + "self_attn.{q,k,v}_proj.{name}", "layers.{n}.attention.{q,k,v}_proj.{name}"),
        Rule(LAYER + "self_attn.dense.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule(LAYER + "self_attn.{q,k}_layernorm.{name}", "layers.{n}.attention.{q,k}_norm.{name}"),
        Rule(LAYER + "mlp.{fc1,fc2}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
        Rule("model.final_layernorm.{name}", "final_norm.{name}"),
        Rule("lm_head.weight", "head.weight"),
        Rule("lm_head.bias", "head_bias"),
    ),
    spellings=tuple(
        (f"{part}.{{rest}}", f"model.{part}.{{rest}}")
        for part in ("embed_tokens", "layers", "final_layernorm")
    ),
    dropped=DROPPED,
    unused=DECODER_HEADS,
)

HF_PHI3 = Layout(
    "hf.phi3",
    rules=(
        GroupedRule(LAYER + "self_attn.qkv_proj.weight", "layers.{n}.attention.{q,k,v}_proj.weight"),
        *HF_GLM.rules,
    ),
    spellings=HF_GLM.spellings,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)
