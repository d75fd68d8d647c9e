"""`hf.bart`: Hugging Face `BartForConditionalGeneration`, or `BartModel`, whose names have no prefix `model.`.

Marian, M2M-100, mBART, Pegasus, BlenderBot and PLBart have the same names. `hf.bart_biased` has a bias of the logits
that is not zero. `hf.bart_decoder` is the decoder alone, `BartForCausalLM`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/bart/modeling_bart.py
"""

from dataclasses import replace

import numpy as np

from attention_bridge.weights.layout import Constant, Layout, Tied, Unused
from attention_bridge.weights.rule import Rule


def stack_rules(stack: str) -> tuple[Rule, ...]:
    """The rules for the layers of an encoder or a decoder, shared with Whisper."""
    theirs, ours = f"model.{stack}.layers.{{n}}.", f"{stack}_layers.{{n}}."
    own = "attention" if stack == "encoder" else "self_attention"
    norm = "attention_norm" if stack == "encoder" else "self_norm"
    rules = (
        Rule(f"{theirs}self_attn.{{q,k,v,out}}_proj.{{name}}", f"{ours}{own}.{{q,k,v,out}}_proj.{{name}}"),
        Rule(f"{theirs}self_attn_layer_norm.{{name}}", f"{ours}{norm}.{{name}}"),
        Rule(f"{theirs}fc{{1,2}}.{{name}}", f"{ours}ffn.{{up,down}}_proj.{{name}}"),
        Rule(f"{theirs}final_layer_norm.{{name}}", f"{ours}ffn_norm.{{name}}"),
    )
    if stack == "encoder":
        return rules
    return (
        *rules,
        Rule(
            f"{theirs}encoder_attn.{{q,k,v,out}}_proj.{{name}}",
            f"{ours}cross_attention.{{q,k,v,out}}_proj.{{name}}",
        ),
        Rule(f"{theirs}encoder_attn_layer_norm.{{name}}", f"{ours}cross_norm.{{name}}"),
    )


HF_BART = Layout(
    "hf.bart",
    rules=(
        Rule("model.shared.weight", "token_embedding.weight"),
        Rule("model.{encoder,decoder}.embed_positions.weight", "{encoder,decoder}_position_embedding.weight"),
        Rule("model.{encoder,decoder}.layernorm_embedding.{name}", "{encoder,decoder}_embedding_norm.{name}"),
        Rule("model.{encoder,decoder}.layer_norm.{name}", "{encoder,decoder}_norm.{name}"),
        *stack_rules("encoder"),
        *stack_rules("decoder"),
    ),
    spellings=tuple(
        (f"{part}.{{rest}}", f"model.{part}.{{rest}}") for part in ("shared", "encoder", "decoder")
    ),
    constants=(Constant("final_logits_bias", np.zeros, "always zero"),),
    tied=tuple(
        Tied(name, "model.shared.weight", "tied embeddings")
        for name in (
            "lm_head.weight",
            "model.encoder.embed_tokens.weight",
            "model.decoder.embed_tokens.weight",
        )
    ),
    unused=tuple(
        Unused(name, "a task head, not part of the encoder-decoder")
        for name in ("classification_head.{rest}", "qa_outputs.{rest}")
    ),
)

HF_BART_BIASED = replace(
    HF_BART,
    name="hf.bart_biased",
    rules=(*HF_BART.rules, Rule("final_logits_bias", "head_bias", "1 vocab -> vocab")),
    constants=(),
)


def decoder_rules() -> tuple[Rule, ...]:
    """The rules for the layers of a decoder alone, for a `LanguageModel`; shared with Whisper."""
    theirs, ours = "model.decoder.layers.{n}.", "layers.{n}."
    return (
        Rule(
            f"{theirs}self_attn.{{q,k,v,out}}_proj.{{name}}", f"{ours}attention.{{q,k,v,out}}_proj.{{name}}"
        ),
        Rule(f"{theirs}self_attn_layer_norm.{{name}}", f"{ours}attention_norm.{{name}}"),
        Rule(f"{theirs}fc{{1,2}}.{{name}}", f"{ours}ffn.{{up,down}}_proj.{{name}}"),
        Rule(f"{theirs}final_layer_norm.{{name}}", f"{ours}ffn_norm.{{name}}"),
    )


# Tensors of the whole model that the decoder alone does not use.
NOT_OF_DECODER = tuple(
    Unused(name, "not part of the decoder without an encoder")
    for name in ("model.encoder.{rest}", "{path}encoder_attn.{rest}", "{path}encoder_attn_layer_norm.{rest}")
)

HF_BART_DECODER = Layout(
    "hf.bart_decoder",
    rules=(
        Rule("model.decoder.embed_{tokens,positions}.weight", "{token,position}_embedding.weight"),
        Rule("model.decoder.layernorm_embedding.{name}", "embedding_norm.{name}"),
        Rule("model.decoder.layer_norm.{name}", "final_norm.{name}"),
        *decoder_rules(),
    ),
    spellings=(("decoder.{rest}", "model.decoder.{rest}"),),
    tied=(Tied("lm_head.weight", "model.decoder.embed_tokens.weight", "tied embeddings"),),
    unused=NOT_OF_DECODER,
)
