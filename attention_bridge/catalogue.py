"""The one list of mechanisms: the proof, `attention-bridge list` and the tables in `docs/` are made from it.

An entry says what a mechanism is, where it comes from, and how to build and feed the smallest instance whose
axes all differ. Nothing here imports PyTorch or JAX.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from attention_bridge import oracles
from attention_bridge.errors import UnknownMechanismError

# Every axis of every tensor of the proof, by name; no two that meet are equal.
SIZES = {
    "one": 1,
    "batch": 2,
    "heads": 3,
    "query": 5,
    "value_dim": 6,
    "key": 7,
    "query_dim": 8,
    "hidden": 9,
    "key_dim": 10,
    "max_len": 11,
    "embed": 12,  # 3 heads of 4
    "ffn": 13,
    "vocab": 17,
}

Axes = tuple[str, ...]


@dataclass(frozen=True)
class Part:
    """A class of the mirrors and the arguments to build it with; an argument may be a part in turn."""

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Paper:
    """Where a mechanism was published."""

    authors: str
    year: int
    address: str


@dataclass(frozen=True, eq=False)
class Mechanism:
    """One attention mechanism, the same in both mirrors.

    Attributes:
        name: how it is called on the command line and in tables.
        family: the group it belongs to.
        file: where it stands in each mirror.
        paper: where it was published.
        equation: what it computes, in LaTeX.
        module: what to build.
        inputs: the axes of each floating-point input.
        oracle: the equation in float64 numpy, `oracle(parameters, **inputs, **masks)`.
        native: the function in `attention_bridge.natives` that computes the same with PyTorch's own
            operations: the yardstick for bfloat16.
        masks: the axes of each mask argument.
        tokens: the axes of each integer input.
        keeps: whether it takes one keep-mask, of the shape of its weights.
    """

    name: str
    family: str
    file: str
    paper: Paper
    equation: str
    module: Part
    inputs: Mapping[str, Axes]
    oracle: Callable[..., Any]
    native: str
    masks: Mapping[str, Axes]
    tokens: Mapping[str, Axes] = field(default_factory=dict)
    keeps: bool = True


def select(names: list[str]) -> list[Mechanism]:
    """The mechanisms of those names, in any case; all of them if there are none.

    Raises:
        UnknownMechanismError: a name is not in the catalogue.
    """
    by_name = {mechanism.name.lower(): mechanism for mechanism in CATALOGUE}
    unknown = [name for name in names if name.lower() not in by_name]
    if unknown:
        known = ", ".join(mechanism.name for mechanism in CATALOGUE)
        raise UnknownMechanismError(f"unknown mechanism {', '.join(unknown)}: expected one of {known}")
    return [by_name[name.lower()] for name in names] or list(CATALOGUE)


BAHDANAU = Paper("Bahdanau, Cho & Bengio", 2014, "https://arxiv.org/abs/1409.0473")
LUONG = Paper("Luong, Pham & Manning", 2015, "https://arxiv.org/abs/1508.04025")
VASWANI = Paper("Vaswani et al.", 2017, "https://arxiv.org/abs/1706.03762")
RADFORD = Paper(
    "Radford et al.",
    2018,
    "https://cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf",
)
DEVLIN = Paper("Devlin et al.", 2018, "https://arxiv.org/abs/1810.04805")

QUERY_KEY_VALUE = {
    "query": ("batch", "query", "query_dim"),
    "key": ("batch", "key", "key_dim"),
    "value": ("batch", "key", "value_dim"),
}
SAME_DIM = {**QUERY_KEY_VALUE, "key": ("batch", "key", "query_dim")}
SEQUENCE = {"x": ("batch", "query", "embed")}
ONE_HEAD_CROSS = {"mask": ("batch", "one", "query", "key")}
ONE_HEAD_SELF = {"mask": ("batch", "one", "query", "query")}
HEADS_CROSS = {"mask": ("batch", "heads", "query", "key")}
HEADS_SELF = {"mask": ("batch", "heads", "query", "query")}

HEADS, EMBED, FFN = SIZES["heads"], SIZES["embed"], SIZES["ffn"]
QUERY_DIM, KEY_DIM, HIDDEN = SIZES["query_dim"], SIZES["key_dim"], SIZES["hidden"]
ENCODER_SIZES = {
    "vocab_size": SIZES["vocab"],
    "embed_dim": EMBED,
    "num_heads": HEADS,
    "num_layers": 2,
    "ffn_dim": FFN,
    "max_len": SIZES["max_len"],
}

CATALOGUE = (
    Mechanism(
        name="BasicAttention",
        family="basics",
        file="attention_basics.py",
        paper=BAHDANAU,
        equation=r"\mathrm{softmax}_j\left(w^\top \tanh(W q_i + U k_j)\right) v_j",
        module=Part(
            "BasicAttention", {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, "hidden_dim": HIDDEN, "bias": True}
        ),
        inputs=QUERY_KEY_VALUE,
        masks=ONE_HEAD_CROSS,
        oracle=oracles.basic_attention,
        native="basic_attention",
    ),
    Mechanism(
        name="LuongAttention-dot",
        family="basics",
        file="attention_basics.py",
        paper=LUONG,
        equation=r"\mathrm{softmax}_j\left(q_i^\top k_j\right) v_j",
        module=Part("LuongAttention", {"score": Part("DotScore")}),
        inputs=SAME_DIM,
        masks=ONE_HEAD_CROSS,
        oracle=oracles.luong_dot_attention,
        native="luong_dot_attention",
    ),
    Mechanism(
        name="LuongAttention-general",
        family="basics",
        file="attention_basics.py",
        paper=LUONG,
        equation=r"\mathrm{softmax}_j\left(q_i^\top W k_j\right) v_j",
        module=Part(
            "LuongAttention", {"score": Part("GeneralScore", {"query_dim": QUERY_DIM, "key_dim": KEY_DIM})}
        ),
        inputs=QUERY_KEY_VALUE,
        masks=ONE_HEAD_CROSS,
        oracle=oracles.luong_general_attention,
        native="luong_general_attention",
    ),
    Mechanism(
        name="LuongAttention-concat",
        family="basics",
        file="attention_basics.py",
        paper=LUONG,
        equation=r"\mathrm{softmax}_j\left(w^\top \tanh(W [q_i; k_j])\right) v_j",
        module=Part(
            "LuongAttention",
            {
                "score": Part(
                    "ConcatScore", {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, "hidden_dim": HIDDEN}
                )
            },
        ),
        inputs=QUERY_KEY_VALUE,
        masks=ONE_HEAD_CROSS,
        oracle=oracles.luong_concat_attention,
        native="luong_concat_attention",
    ),
    Mechanism(
        name="ScaledDotProductAttention",
        family="basics",
        file="attention_basics.py",
        paper=VASWANI,
        equation=r"\mathrm{softmax}\left(Q K^\top / \sqrt{d}\right) V",
        module=Part("ScaledDotProductAttention"),
        inputs=SAME_DIM,
        masks=ONE_HEAD_CROSS,
        oracle=oracles.scaled_dot_product_attention,
        native="scaled_dot_product_attention",
    ),
    Mechanism(
        name="SelfAttention",
        family="self",
        file="self_attention.py",
        paper=VASWANI,
        equation=r"\mathrm{softmax}\left(X W_Q (X W_K)^\top / \sqrt{d}\right) X W_V",
        module=Part("SelfAttention", {"embed_dim": EMBED}),
        inputs=SEQUENCE,
        masks=ONE_HEAD_SELF,
        oracle=oracles.self_attention,
        native="self_attention",
    ),
    Mechanism(
        name="MultiHeadSelfAttention",
        family="self",
        file="self_attention.py",
        paper=VASWANI,
        equation=r"[\mathrm{head}_1; \dots; \mathrm{head}_h] W_O",
        module=Part("MultiHeadSelfAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        oracle=partial(oracles.multi_head_self_attention, num_heads=HEADS),
        native="multi_head_self_attention",
    ),
    Mechanism(
        name="CausalSelfAttention",
        family="self",
        file="self_attention.py",
        paper=RADFORD,
        equation=r"[\mathrm{head}_1; \dots; \mathrm{head}_h] W_O, \quad \alpha_{ij} = 0 \text{ for } j > i",
        module=Part("CausalSelfAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        oracle=partial(oracles.causal_self_attention, num_heads=HEADS),
        native="causal_self_attention",
    ),
    Mechanism(
        name="CrossAttention",
        family="cross",
        file="cross_attention.py",
        paper=VASWANI,
        equation=r"\mathrm{softmax}\left(X W_Q (M W_K)^\top / \sqrt{d}\right) M W_V",
        module=Part("CrossAttention", {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, "embed_dim": EMBED}),
        inputs={"query": ("batch", "query", "query_dim"), "memory": ("batch", "key", "key_dim")},
        masks=ONE_HEAD_CROSS,
        oracle=oracles.cross_attention,
        native="cross_attention",
    ),
    Mechanism(
        name="MultiHeadCrossAttention",
        family="cross",
        file="cross_attention.py",
        paper=VASWANI,
        equation=r"[\mathrm{head}_1; \dots; \mathrm{head}_h] W_O, \quad K = M W_K, \; V = M W_V",
        module=Part(
            "MultiHeadCrossAttention",
            {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, "embed_dim": EMBED, "num_heads": HEADS},
        ),
        inputs={"query": ("batch", "query", "query_dim"), "memory": ("batch", "key", "key_dim")},
        masks=HEADS_CROSS,
        oracle=partial(oracles.multi_head_cross_attention, num_heads=HEADS),
        native="multi_head_cross_attention",
    ),
    # Smooth activations: at the kink of a relu, rounding alone decides on the gradient.
    *(
        Mechanism(
            name=f"EncoderDecoderAttention-{name}",
            family="cross",
            file="cross_attention.py",
            paper=VASWANI,
            equation=equation,
            module=Part(
                "EncoderDecoderAttention",
                {
                    "embed_dim": EMBED,
                    "num_heads": HEADS,
                    "ffn_dim": FFN,
                    "norm_first": norm_first,
                    "activation": activation,
                },
            ),
            inputs={"x": ("batch", "query", "embed"), "memory": ("batch", "key", "embed")},
            masks={"self_mask": HEADS_SELF["mask"], "memory_mask": HEADS_CROSS["mask"]},
            oracle=partial(
                oracles.encoder_decoder_attention,
                num_heads=HEADS,
                norm_first=norm_first,
                activation=activation,
            ),
            native=f"encoder_decoder_attention_{name}_norm",
            keeps=False,
        )
        for name, norm_first, activation, equation in (
            (
                "post",
                False,
                "gelu_tanh",
                r"x \leftarrow \mathrm{norm}(x + f(x)), \quad f = \mathrm{self}, \mathrm{cross}, \mathrm{ffn}",
            ),
            (
                "pre",
                True,
                "gelu",
                r"x \leftarrow x + f(\mathrm{norm}(x)), \quad f = \mathrm{self}, \mathrm{cross}, \mathrm{ffn}",
            ),
        )
    ),
    Mechanism(
        name="Encoder",
        family="models",
        file="models/encoder.py",
        paper=DEVLIN,
        equation=r"x \leftarrow \mathrm{norm}(x + f(x)), \quad f = \mathrm{self}, \mathrm{ffn}",
        module=Part("Encoder", {"config": Part("EncoderConfig", ENCODER_SIZES)}),
        inputs={},
        tokens={"tokens": ("batch", "query")},
        masks=HEADS_SELF,
        oracle=partial(oracles.encoder, num_heads=HEADS, num_layers=2),
        native="encoder",
        keeps=False,
    ),
)
