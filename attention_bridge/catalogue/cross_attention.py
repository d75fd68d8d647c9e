"""Entries of cross-attention and the decoder block."""

from functools import partial

from attention_bridge import oracles
from attention_bridge.catalogue.mechanism import Mechanism
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import (
    EMBED,
    FFN,
    HEADS,
    HEADS_CROSS,
    HEADS_SELF,
    KEEP_CROSS,
    KEEP_ONE_HEAD_CROSS,
    KEY_DIM,
    ONE_HEAD_CROSS,
    QUERY_DIM,
    QUERY_MEMORY,
    VASWANI,
)

CROSS = (
    Mechanism(
        name="CrossAttention",
        family="cross",
        file="cross_attention.py",
        paper=VASWANI,
        equation=r"\mathrm{softmax}\left(X W_Q (M W_K)^\top / \sqrt{d}\right) M W_V",
        module=Part("CrossAttention", {"query_dim": QUERY_DIM, "key_dim": KEY_DIM, "embed_dim": EMBED}),
        inputs=QUERY_MEMORY,
        masks=ONE_HEAD_CROSS,
        keep=KEEP_ONE_HEAD_CROSS,
        oracle=oracles.cross_attention,
        native="cross_attention",
        peers=("torch MultiheadAttention",),
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
        inputs=QUERY_MEMORY,
        masks=HEADS_CROSS,
        keep=KEEP_CROSS,
        oracle=partial(oracles.multi_head_cross_attention, num_heads=HEADS),
        native="multi_head_cross_attention",
        peers=("torch MultiheadAttention", "flax nnx.MultiHeadAttention", "transformers BartAttention"),
    ),
    # Smooth activations: at the kink of a ReLU, rounding alone would decide the gradient.
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
            causal=True,
            decoding="cache",
            native=f"encoder_decoder_attention_{name}_norm",
            peers=peers,
        )
        for name, norm_first, activation, equation, peers in (
            (
                "post",
                False,
                "gelu_tanh",
                r"x \leftarrow \mathrm{norm}(x + f(x)), \quad f = \mathrm{self}, \mathrm{cross}, \mathrm{ffn}",
                ("torch TransformerDecoderLayer", "transformers BartDecoderLayer"),
            ),
            (
                "pre",
                True,
                "gelu",
                r"x \leftarrow x + f(\mathrm{norm}(x)), \quad f = \mathrm{self}, \mathrm{cross}, \mathrm{ffn}",
                ("torch TransformerDecoderLayer with norm_first",),
            ),
        )
    ),
)
