"""Layouts of Google's Vision Transformers in JAX: files of Big Vision and of its predecessor.

| layout                   | file                                                                                  |
|--------------------------|---------------------------------------------------------------------------------------|
| `big_vision.vit`         | `.npz` of `models/vit.py`, one tensor per layer                                       |
| `big_vision.vit_scan`    | the same with `scan=True`, one tensor of all layers                                   |
| `big_vision.siglip`      | `.npz` of `two_towers.py`, one tensor per layer: image tower, text tower, temperature |
| `big_vision.siglip_scan` | the same with `scan=True` in both towers                                              |
| `vit_jax`                | `.npz` of the original ViT and of AugReg, whose class token has a position            |

Conversion to these layouts needs `axes={"d": head_dim}`. The gelu is the approximation with tanh, the norms add 1e-6,
and class tokens have no position except in `vit_jax`: `class_position=False`.

https://github.com/google-research/big_vision/blob/main/big_vision/models/vit.py
"""

from dataclasses import replace
from typing import NamedTuple

from attention_bridge.weights.layout import Dropped, Layout, Refused
from attention_bridge.weights.rule import Rule

DENSE = "i o -> o i"


class Numbers(NamedTuple):
    """Numbers in the names of a block's modules."""

    attention: int
    ffn_norm: int
    ffn: int


NEW, OLD = Numbers(0, 1, 0), Numbers(1, 2, 3)


def dense(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """The rules of a linear layer."""
    return Rule(f"{theirs}.kernel", f"{ours}.weight", DENSE), Rule(f"{theirs}.bias", f"{ours}.bias")


def norm(theirs: str, ours: str) -> tuple[Rule, Rule]:
    """The rules of a layer norm."""
    return Rule(f"{theirs}.scale", f"{ours}.weight"), Rule(f"{theirs}.bias", f"{ours}.bias")


def attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    """The rules of Flax's multi-head attention."""
    names = f"{theirs}.{{query,key,value}}", f"{ours}.{{q,k,v}}_proj"
    return (
        Rule(f"{names[0]}.kernel", f"{names[1]}.weight", "i h d -> (h d) i"),
        Rule(f"{names[0]}.bias", f"{names[1]}.bias", "h d -> (h d)"),
        Rule(f"{theirs}.out.kernel", f"{ours}.out_proj.weight", "h d o -> o (h d)"),
        Rule(f"{theirs}.out.bias", f"{ours}.out_proj.bias"),
    )


def encoder(path: str, ours: str, block: str, numbers: Numbers = NEW) -> tuple[Rule, ...]:
    """The rules of an encoder.

    Args:
        path: its path in the file, with a dot at the end.
        ours: its path in the canonical layout, with a dot at the end, or nothing.
        block: name of a layer, with `{n}` for its number.
        numbers: numbers in the names of a layer's modules.
    """
    layer, layers = f"{path}{block}.", f"{ours}layers.{{n}}."
    ffn = f"{layer}MlpBlock_{numbers.ffn}.Dense_"
    return (
        *norm(f"{layer}LayerNorm_0", f"{layers}attention_norm"),
        *attention(f"{layer}MultiHeadDotProductAttention_{numbers.attention}", f"{layers}attention"),
        *norm(f"{layer}LayerNorm_{numbers.ffn_norm}", f"{layers}ffn_norm"),
        *dense(f"{ffn}0", f"{layers}ffn.up_proj"),
        *dense(f"{ffn}1", f"{layers}ffn.down_proj"),
        *norm(f"{path}encoder_norm", f"{ours}final_norm"),
    )


def image_tower(path: str, ours: str, block: str, numbers: Numbers = NEW) -> tuple[Rule, ...]:
    """The rules of a Vision Transformer without its classifier; arguments as in `encoder`."""
    head, pooling = f"{path}MAPHead_0.", f"{ours}pooling.attention."
    return (
        Rule(
            f"{path}embedding.kernel",
            f"{ours}patches.patch_proj.weight",
            "rows columns i o -> o i rows columns",
        ),
        Rule(f"{path}embedding.bias", f"{ours}patches.patch_proj.bias"),
        Rule(f"{path}pos_embedding", f"{ours}patches.positions", "1 n e -> n e"),
        Rule(f"{path}cls", f"{ours}patches.class_token", "1 1 e -> e"),
        *encoder(f"{path}Transformer.", ours, block, numbers),
        Rule(f"{head}probe", f"{pooling}probes", "1 n e -> n e"),
        *attention(f"{head}MultiHeadDotProductAttention_0", f"{pooling}attention"),
        *norm(f"{head}LayerNorm_0", f"{pooling}ffn_norm"),
        *dense(f"{head}MlpBlock_0.Dense_0", f"{pooling}ffn.up_proj"),
        *dense(f"{head}MlpBlock_0.Dense_1", f"{pooling}ffn.down_proj"),
    )


APART, SCANNED = "encoderblock_{n}", "encoderblock.{n}"
CLASSIFIER = (*dense("pre_logits", "pooler"), *dense("head", "head"))
SPELLINGS = (("params.{rest}", "{rest}"),)
DROPPED = (Dropped("opt.{rest}", "the state of the optimizer"),)

BIG_VISION_VIT, BIG_VISION_VIT_SCAN = (
    Layout(
        name,
        rules=(*image_tower("", "", block), *CLASSIFIER),
        spellings=SPELLINGS,
        dropped=DROPPED,
        stacked=stacked,
        slashes=True,
    )
    for name, block, stacked in (
        ("big_vision.vit", APART, None),
        ("big_vision.vit_scan", SCANNED, "encoderblock"),
    )
)

VIT_JAX = replace(
    BIG_VISION_VIT,
    name="vit_jax",
    rules=(
        Rule("Transformer.posembed_input.pos_embedding", "patches.positions", "1 n e -> n e"),
        *(rule for rule in image_tower("", "", APART, OLD) if "pos_embedding" not in rule.theirs),
        *CLASSIFIER,
    ),
)

TEXT, TWICE = "txt.", "positions that are added twice: add them to txt/pos_embedding, and leave them out"

BIG_VISION_SIGLIP, BIG_VISION_SIGLIP_SCAN = (
    Layout(
        name,
        rules=(
            *image_tower("img.", "image.", block),
            Rule(f"{TEXT}Embed_0.embedding", "text.token_embedding.weight"),
            Rule(f"{TEXT}pos_embedding", "text.position_embedding.weight", "1 n e -> n e"),
            *encoder(f"{TEXT}Encoder_0.", "text.", block),
            *dense(f"{TEXT}head", "text_proj"),
            Rule("t", "logit_scale", "1 -> "),
            Rule("b", "logit_bias", "1 -> "),
        ),
        spellings=SPELLINGS,
        dropped=DROPPED,
        refused=(Refused(f"{TEXT}Encoder_0.pos_embedding", TWICE),),
        stacked=stacked,
        slashes=True,
    )
    for name, block, stacked in (
        ("big_vision.siglip", APART, None),
        ("big_vision.siglip_scan", SCANNED, "encoderblock"),
    )
)
