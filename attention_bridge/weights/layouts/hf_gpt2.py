"""`hf.gpt2`: Hugging Face `GPT2Model`, alone or inside a model with a head (prefix `transformer.`).

Its projections are `Conv1D` layers, whose weights are `(in, out)`.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/gpt2/modeling_gpt2.py
"""

import numpy as np

from attention_bridge.weights.layout import Constant, Layout, Tied, Unused
from attention_bridge.weights.rule import Rule


def _causal(shape: tuple[int, ...]) -> np.ndarray:
    return np.tril(np.ones(shape))


def _masked_score(shape: tuple[int, ...]) -> np.ndarray:
    return np.full(shape, -1e4)


# Task heads of decoders: classification of sequences and tokens, question answering, multiple choice.
DECODER_HEADS = tuple(
    Unused(name, "a task head, not part of the decoder")
    for name in ("score.{rest}", "classifier.{rest}", "qa_outputs.{rest}", "multiple_choice_head.{rest}")
)

HF_GPT2 = Layout(
    "hf.gpt2",
    rules=(
        Rule("{wte,wpe}.weight", "{token,position}_embedding.weight"),
        Rule("h.{n}.ln_1.{name}", "layers.{n}.attention_norm.{name}"),
        Rule(
            "h.{n}.attn.c_attn.weight",
            "layers.{n}.attention.{q,k,v}_proj.weight",
            "i (three o) -> three o i",
        ),
        Rule("h.{n}.attn.c_attn.bias", "layers.{n}.attention.{q,k,v}_proj.bias", "(three o) -> three o"),
        Rule("h.{n}.attn.c_proj.weight", "layers.{n}.attention.out_proj.weight", "i o -> o i"),
        Rule("h.{n}.attn.c_proj.bias", "layers.{n}.attention.out_proj.bias"),
        Rule("h.{n}.ln_2.{name}", "layers.{n}.ffn_norm.{name}"),
        Rule("h.{n}.mlp.c_{fc,proj}.weight", "layers.{n}.ffn.{up,down}_proj.weight", "i o -> o i"),
        Rule("h.{n}.mlp.c_{fc,proj}.bias", "layers.{n}.ffn.{up,down}_proj.bias"),
        Rule("ln_f.{name}", "final_norm.{name}"),
        Rule("lm_head.weight", "head.weight"),
    ),
    spellings=(("transformer.{rest}", "{rest}"),),
    constants=(
        Constant("h.{n}.attn.bias", _causal, "always the causal mask"),
        Constant("h.{n}.attn.masked_bias", _masked_score, "always the score of masked keys"),
    ),
    tied=(Tied("lm_head.weight", "wte.weight", "tied embeddings"),),
    unused=DECODER_HEADS,
)
