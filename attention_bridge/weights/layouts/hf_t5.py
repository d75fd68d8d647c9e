"""`hf.t5` and `hf.t5_gated`: Hugging Face `T5ForConditionalGeneration`; T5 1.1 and mT5 have gated feed-forward layers.

`hf.t5_encoder` and `hf.t5_gated_encoder` are the encoder alone, `T5EncoderModel`. The first layer of each stack holds
the relative position bias of all its layers; in `hf.umt5` each layer holds its own.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/t5/modeling_t5.py
"""

from attention_bridge.weights.layout import Layout, Tied, Unused
from attention_bridge.weights.rule import Rule

ENCODER, DECODER = "encoder.block.{n}.layer.", "decoder.block.{n}.layer."
BIAS = "layer.0.SelfAttention.relative_attention_bias.weight"
TABLE = "position.bias_embedding.weight"
FFN = {False: ("{wi,wo}", "{up,down}"), True: ("{wi_0,wi_1,wo}", "{gate,up,down}")}


def _ffn(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(f"{ENCODER}1.DenseReluDense.{theirs}.weight", f"encoder_layers.{{n}}.ffn.{ours}_proj.weight"),
        Rule(f"{DECODER}2.DenseReluDense.{theirs}.weight", f"decoder_layers.{{n}}.ffn.{ours}_proj.weight"),
    )


RULES = (
    Rule("shared.weight", "token_embedding.weight"),
    Rule(
        ENCODER + "0.SelfAttention.{q,k,v,o}.weight",
        "encoder_layers.{n}.self_attention.{q,k,v,out}_proj.weight",
    ),
    Rule(ENCODER + "{0,1}.layer_norm.weight", "encoder_layers.{n}.{self,ffn}_norm.weight"),
    Rule(
        DECODER + "0.SelfAttention.{q,k,v,o}.weight",
        "decoder_layers.{n}.self_attention.{q,k,v,out}_proj.weight",
    ),
    Rule(
        DECODER + "1.EncDecAttention.{q,k,v,o}.weight",
        "decoder_layers.{n}.cross_attention.{q,k,v,out}_proj.weight",
    ),
    Rule(DECODER + "{0,1,2}.layer_norm.weight", "decoder_layers.{n}.{self,cross,ffn}_norm.weight"),
    Rule("{encoder,decoder}.final_layer_norm.weight", "{encoder,decoder}_norm.weight"),
    Rule("lm_head.weight", "head.weight"),
)
SHARED = Rule(f"{{encoder,decoder}}.block.0.{BIAS}", f"{{encoder,decoder}}_{TABLE}")
OWN = Rule(
    f"{{encoder,decoder}}.block.{{n}}.{BIAS}", f"{{encoder,decoder}}_layers.{{n}}.self_attention.{TABLE}"
)
TIED = tuple(
    Tied(f"{stack}.embed_tokens.weight", "shared.weight", "tied embeddings")
    for stack in ("encoder", "decoder")
)
UNUSED = tuple(
    Unused(name, "a task head, not part of the encoder-decoder")
    for name in ("classification_head.{rest}", "classifier.{rest}", "qa_outputs.{rest}")
)
SPELLINGS = (("transformer.{rest}", "{rest}"),)  # of models for classification


def _whole(name: str, gated: bool, bias: Rule) -> Layout:
    """The encoder-decoder."""
    rules = (*RULES, bias, *_ffn(*FFN[gated]))
    return Layout(name, rules=rules, spellings=SPELLINGS, tied=TIED, unused=UNUSED)


def _encoder(name: str, gated: bool, bias: Rule) -> Layout:
    """The encoder alone, as the layers of a `LanguageModel`."""
    ffn, ours = FFN[gated]
    return Layout(
        name,
        rules=(
            Rule("shared.weight", "token_embedding.weight"),
            bias,
            Rule(
                ENCODER + "0.SelfAttention.{q,k,v,o}.weight", "layers.{n}.attention.{q,k,v,out}_proj.weight"
            ),
            Rule(ENCODER + "{0,1}.layer_norm.weight", "layers.{n}.{attention,ffn}_norm.weight"),
            Rule(f"{ENCODER}1.DenseReluDense.{ffn}.weight", f"layers.{{n}}.ffn.{ours}_proj.weight"),
            Rule("encoder.final_layer_norm.weight", "final_norm.weight"),
        ),
        spellings=SPELLINGS,
        tied=TIED,
        unused=(
            *UNUSED,
            Unused("decoder.{rest}", "the decoder, not part of the encoder"),
            Unused("lm_head.weight", "the output head, not part of the encoder"),
        ),
    )


SHARED_ALONE = Rule(f"encoder.block.0.{BIAS}", TABLE)
OWN_ALONE = Rule(f"encoder.block.{{n}}.{BIAS}", f"layers.{{n}}.attention.{TABLE}")

HF_T5 = _whole("hf.t5", False, SHARED)
HF_T5_GATED = _whole("hf.t5_gated", True, SHARED)
HF_T5_ENCODER = _encoder("hf.t5_encoder", False, SHARED_ALONE)
HF_T5_GATED_ENCODER = _encoder("hf.t5_gated_encoder", True, SHARED_ALONE)
HF_UMT5 = _whole("hf.umt5", False, OWN)
HF_UMT5_GATED = _whole("hf.umt5_gated", True, OWN)
HF_UMT5_ENCODER = _encoder("hf.umt5_encoder", False, OWN_ALONE)
HF_UMT5_GATED_ENCODER = _encoder("hf.umt5_gated_encoder", True, OWN_ALONE)

# Layouts by whether the feed-forward networks are gated and whether there is a decoder.
T5 = {
    (False, True): HF_T5,
    (True, True): HF_T5_GATED,
    (False, False): HF_T5_ENCODER,
    (True, False): HF_T5_GATED_ENCODER,
}
UMT5 = {
    (False, True): HF_UMT5,
    (True, True): HF_UMT5_GATED,
    (False, False): HF_UMT5_ENCODER,
    (True, False): HF_UMT5_GATED_ENCODER,
}
