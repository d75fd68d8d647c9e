"""Layouts of MaxText's decoders, with one tensor per layer or, in `_scan`, one tensor of all layers on axis 1.

| layout           | model                  | differences from Hugging Face's values                             |
|------------------|------------------------|--------------------------------------------------------------------|
| `maxtext.llama`  | Llama 2 and 3, Mistral | queries are divided by sqrt(head_dim); rotary pairs are neighbours |
| `maxtext.qwen`   | Qwen 2 and 3, dense    | none                                                               |
| `maxtext.gemma2` | Gemma 2                | queries as above; embeddings times sqrt(embed_dim); norms plus 1   |
| `maxtext.gemma3` | Gemma 3's text model   | embeddings times sqrt(embed_dim) in bfloat16; norms plus 1         |

A layer of `maxtext.gemma2` is a pair of layers, a local and a global one. Conversion to these layouts needs
`axes={"d": head_dim}`, to `maxtext.llama` also `pair`, head_dim / 2. Rows of the embedding that MaxText adds to the
vocabulary are kept. `maxtext.gemma3` has no layout of all layers, whose last layers are a group of another size.

https://github.com/AI-Hypercomputer/maxtext/blob/main/src/maxtext/checkpoint_conversion/utils/param_mapping.py
"""

import re
from collections.abc import Callable
from dataclasses import replace

from attention_bridge.weights.layout import Dropped, Layout, Renamed
from attention_bridge.weights.rule import Rule
from attention_bridge.weights.scaled import ScaledRule

OURS = "layers.{n}."
SPELLINGS = (("{rest}.value", "{rest}"), ("params.{rest}", "{rest}"), ("params.{rest}", "{rest}"))
DROPPED = (
    Dropped("opt_state.{rest}", "the state of the optimizer"),
    Dropped("step", "the step of the training"),
)
EMBEDDING, FINAL_NORM = "token_embedder.embedding", "decoder.decoder_norm.scale"
GEMMA_NORMS = (
    "{pre_self_attention,post_self_attention,pre_ffw,post_ffw}_norm.scale",
    OURS + "{attention,attention_output,ffn,ffn_output}_norm.weight",
)


def shared(layer: str) -> tuple[Rule, ...]:
    """The rules of values, outputs and feed-forward networks, for the name of a layer with a dot at its end."""
    attention = f"{layer}self_attention."
    return (
        Rule(attention + "value.kernel", OURS + "attention.v_proj.weight", "i g d -> (g d) i"),
        Rule(attention + "out.kernel", OURS + "attention.out_proj.weight", "h d o -> o (h d)"),
        Rule(f"{layer}mlp.{{wi_0,wi_1,wo}}.kernel", OURS + "ffn.{gate,up,down}_proj.weight", "i o -> o i"),
        Rule("decoder.logits_dense.kernel", "head.weight", "i o -> o i"),
    )


def plain(layer: str) -> tuple[Rule, ...]:
    """The rules of embeddings and norms without arithmetic."""
    return (
        Rule(EMBEDDING, "token_embedding.weight"),
        Rule(f"{layer}{{pre,post}}_self_attention_layer_norm.scale", OURS + "{attention,ffn}_norm.weight"),
        Rule(FINAL_NORM, "final_norm.weight"),
    )


def shifted(layer: str, dtype: str) -> tuple[ScaledRule, ...]:
    """The rules of Gemma's embeddings, whose factor is rounded to `dtype`, and of its norms."""
    return (
        ScaledRule(
            EMBEDDING, "token_embedding.weight", "rows e -> rows e", axis="e", power=-0.5, dtype=dtype
        ),
        ScaledRule(layer + GEMMA_NORMS[0], GEMMA_NORMS[1], shift=-1.0),
        ScaledRule(FINAL_NORM, "final_norm.weight", shift=-1.0),
    )


def llama(layer: str) -> tuple[Rule | ScaledRule, ...]:
    """The rules of Llama."""
    names = layer + "self_attention.query.kernel", OURS + "attention.q_proj.weight"
    key = layer + "self_attention.key.kernel"
    pattern = "i h (pair two) -> (h two pair) i"
    return (
        *plain(layer),
        *shared(layer),
        ScaledRule(*names, pattern, axis="pair two", power=0.5, dtype="float32"),
        Rule(key, OURS + "attention.k_proj.weight", "i g (pair two) -> (g two pair) i"),
    )


def qwen(layer: str) -> tuple[Rule, ...]:
    """The rules of Qwen 2 and 3."""
    attention = f"{layer}self_attention."
    return (
        *plain(layer),
        *shared(layer),
        Rule(attention + "query.kernel", OURS + "attention.q_proj.weight", "i h d -> (h d) i"),
        Rule(attention + "key.kernel", OURS + "attention.k_proj.weight", "i g d -> (g d) i"),
        Rule(attention + "query.bias", OURS + "attention.q_proj.bias", "h d -> (h d)"),
        Rule(attention + "{key,value}.bias", OURS + "attention.{k,v}_proj.bias", "g d -> (g d)"),
        Rule(attention + "{query,key}_norm.scale", OURS + "attention.{q,k}_norm.weight"),
    )


def gemma2(layer: str) -> tuple[Rule | ScaledRule, ...]:
    """The rules of Gemma 2, with a number for each layer of a pair."""
    names = layer + "self_attention.query.kernel", OURS + "attention.q_proj.weight"
    return (
        *shifted(layer, "float32"),
        *shared(layer),
        ScaledRule(*names, "i h d -> (h d) i", axis="d", power=0.5, dtype="float32"),
        Rule(layer + "self_attention.key.kernel", OURS + "attention.k_proj.weight", "i g d -> (g d) i"),
    )


def gemma3(layer: str) -> tuple[Rule | ScaledRule, ...]:
    """The rules of Gemma 3."""
    attention = f"{layer}self_attention."
    return (
        *shifted(layer, "bfloat16"),
        *shared(layer),
        Rule(attention + "query.kernel", OURS + "attention.q_proj.weight", "i h d -> (h d) i"),
        Rule(attention + "key.kernel", OURS + "attention.k_proj.weight", "i g d -> (g d) i"),
        ScaledRule(attention + "{query,key}_norm.scale", OURS + "attention.{q,k}_norm.weight", shift=-1.0),
    )


KINDS = ("local", "global")
PAIRED = re.compile(rf"(decoder\.layers[._])(\d+)\.(\w+)_({'|'.join(KINDS)})\.(.+)")
SINGLE = re.compile(r"(decoder\.layers[._])(\d+)\.(\w+)\.(.+)")


def layer_of_pair(name: str) -> str:
    """The name with the number of the layer, for a name with the number of its pair."""
    found = PAIRED.fullmatch(name)
    if found is None:
        return name
    start, pair, module, kind, rest = found.groups()
    return f"{start}{2 * int(pair) + KINDS.index(kind)}.{module}.{rest}"


def pair_of_layer(name: str) -> str:
    """The inverse of `layer_of_pair`."""
    found = SINGLE.fullmatch(name)
    if found is None:
        return name
    start, layer, module, rest = found.groups()
    return f"{start}{int(layer) // 2}.{module}_{KINDS[int(layer) % 2]}.{rest}"


APART, SCANNED = "decoder.layers_{n}.", "decoder.layers.{n}."
PAIRS = Renamed(layer_of_pair, pair_of_layer)


def _both(
    name: str, rules: Callable[[str], tuple[Rule | ScaledRule, ...]], renamed: Renamed | None = None
) -> tuple[Layout, Layout]:
    """The layouts with one tensor per layer, and with one tensor of all layers."""
    apart = Layout(name, rules(APART), spellings=SPELLINGS, dropped=DROPPED, renamed=renamed)
    return apart, replace(apart, name=f"{name}_scan", rules=rules(SCANNED), stacked="layers", stacked_axis=1)


MAXTEXT_LLAMA, MAXTEXT_LLAMA_SCAN = _both("maxtext.llama", llama)
MAXTEXT_QWEN, MAXTEXT_QWEN_SCAN = _both("maxtext.qwen", qwen)
MAXTEXT_GEMMA2, MAXTEXT_GEMMA2_SCAN = _both("maxtext.gemma2", gemma2, PAIRS)
MAXTEXT_GEMMA3 = Layout("maxtext.gemma3", rules=gemma3(APART), spellings=SPELLINGS, dropped=DROPPED)
