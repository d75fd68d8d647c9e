"""`hf.llama`: Hugging Face `LlamaForCausalLM`, and models with the same tensor names: Mistral, Qwen 2 and 3, Gemma 1.

`hf.gemma` is the same for Gemma 2 and 3, which have four norms per layer; `hf.gemma3` is the text model inside a
multimodal Gemma 3, `Gemma3ForConditionalGeneration`; `hf.eurobert` is EuroBERT, whose classifier has a hidden layer.
Rotary pairs are i and i + head_dim / 2.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/llama/modeling_llama.py
"""

from dataclasses import replace

from attention_bridge.weights.layout import Dropped, Layout, Unused
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.rule import Rule

LAYER = "model.layers.{n}."

RULES = (
    Rule("model.embed_tokens.weight", "token_embedding.weight"),
    Rule(LAYER + "self_attn.{q,k,v,o}_proj.{name}", "layers.{n}.attention.{q,k,v,out}_proj.{name}"),
    Rule(LAYER + "self_attn.{q,k}_norm.weight", "layers.{n}.attention.{q,k}_norm.weight"),
    Rule(LAYER + "mlp.{gate,up,down}_proj.{name}", "layers.{n}.ffn.{gate,up,down}_proj.{name}"),
    Rule("model.norm.weight", "final_norm.weight"),
    Rule("lm_head.weight", "head.weight"),
)
SPELLINGS = (
    ("transformer.{rest}", "model.{rest}"),  # of models for question answering
    *((f"{part}.{{rest}}", f"model.{part}.{{rest}}") for part in ("embed_tokens", "layers", "norm")),
)
DROPPED = (Dropped("{path}rotary_emb.inv_freq", "the rotary frequencies, which are recomputed"),)

HF_LLAMA = Layout(
    "hf.llama",
    rules=(
        Rule(LAYER + "{input,post_attention}_layernorm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)

HF_EUROBERT = replace(
    HF_LLAMA,
    name="hf.eurobert",
    unused=(*DECODER_HEADS, Unused("dense.{rest}", "a task head, not part of the encoder")),
)

HF_GEMMA = Layout(
    "hf.gemma",
    rules=(
        Rule(
            LAYER + "{input,post_attention,pre_feedforward,post_feedforward}_layernorm.weight",
            "layers.{n}.{attention,attention_output,ffn,ffn_output}_norm.weight",
        ),
        *RULES,
    ),
    spellings=SPELLINGS,
    dropped=DROPPED,
    unused=DECODER_HEADS,
)

HF_GEMMA3 = replace(
    HF_GEMMA,
    name="hf.gemma3",
    spellings=(
        ("language_model.model.{rest}", "model.{rest}"),
        ("model.language_model.{rest}", "model.{rest}"),
        ("language_model.{rest}", "{rest}"),
        *SPELLINGS,
    ),
    unused=(
        *DECODER_HEADS,
        *(
            Unused(f"{path}{name}.{{rest}}", "reads images, not part of the text model")
            for path in ("", "model.")
            for name in ("vision_tower", "multi_modal_projector")
        ),
    ),
)
