"""The sixty variants, by the lines of the list of mistakes."""

import jax.numpy as jnp

from parity_tests.helpers.doctor_cases.case import Variant
from parity_tests.helpers.doctor_cases.families import (
    BERT,
    BLOOM,
    CROSS,
    CROSS_ENCODER,
    DEEP,
    FULL,
    GEMMA,
    GPT2,
    LINEAR,
    LLAMA,
    LLAMA3,
    NEOX,
    OPT,
    QWEN,
    ROBERTA,
    T5,
    T5_ENCODER,
    WIDE,
    YARN,
)
from parity_tests.helpers.doctor_cases.shape import HEAD_DIM
from parity_tests.helpers.doctor_cases.weight_changes import (
    both,
    copied,
    kernel,
    no_bias,
    noise,
    rounded,
    shard,
    swapped,
    to_int8,
)

ATTENTION, MLP = "model.layers.1.attention", "model.layers.1.mlp"
BASE = "RoPE base of {}, and the reference {}"
PAIR = (T5_ENCODER, T5)
CROSSED = (CROSS_ENCODER, CROSS)


def attention(line, fault, shape, words, place=ATTENTION, **more):
    """A mistake in the code of one attention layer."""
    return Variant(line, fault, shape, place, words, {"attention": fault}, **more)


def mlp(line, fault, shape, words):
    """A mistake in the code of one feed-forward."""
    return Variant(line, fault, shape, MLP, words, {"mlp": fault})


def weights(line, name, shape, change, place, words, **more):
    """A mistake in the weights."""
    return Variant(line, name, shape, place, words, change=change, **more)


def in_model(line, fault, shape, words, place="the model", **more):
    """A mistake in the code of the whole model."""
    return Variant(line, fault, shape, place, words, {"model": fault}, **more)


def by_blocks(w):
    """The columns of a fused matrix in blocks although they are by head."""
    return w.reshape(len(w), -1, 3, HEAD_DIM).swapaxes(1, 2).reshape(w.shape)


VARIANTS = (
    weights(1, "q and k swapped", FULL, swapped("model.layers.1.attention.q_proj", "model.layers.1.attention.k_proj"),
            ATTENTION, "swapped|exchanges queries and keys"),
    weights(1, "k and v swapped in layer 3 of 6", DEEP,
            swapped("model.layers.3.attention.k_proj", "model.layers.3.attention.v_proj"),
            "model.layers.3.attention", "swapped|exchanges keys and values"),
    attention(1, "q k", FULL, "exchanges queries and keys"),
    Variant(2, "untied head", GEMMA, "head", "another matrix in head.weight",
            {"model": "untied"}, change=noise("head")),
    in_model(2, "tied", OPT, "multiplies by the matrix of `embed`"),
    weights(3, "layer 4 holds layer 2", DEEP, copied("model.layers.2", "model.layers.4"), "model.layers.4",
            "holds the weights of model.layers.2"),
    weights(3, "attention 0 holds attention 2", GPT2, copied("model.layers.2.attention", "model.layers.0.attention"),
            "model.layers.0.attention", "holds the weights of model.layers.2.attention"),
    Variant(4, "post-norm layer", LLAMA, "model.layers.1", "norm is after the residual", {"layer": "post"}),
    Variant(4, "pre-norm layer", BERT, "model.layers.1", "norm is before|does not add|takes", {"layer": "pre"}),
    attention(5, "base 10000", LLAMA, BASE.format(10000, 150000)),
    attention(5, "base 23456", LLAMA, BASE.format("2345[56].*", 150000)),
    attention(6, "first zero", LLAMA, "at position 0", inputs="decoding"),
    attention(6, "one late", FULL, "one place too late", inputs="decoding"),
    attention(6, "keys twice", LLAMA, "(cached )?keys twice", inputs="decoding"),
    attention(7, "alibi sign", BLOOM, "ALiBi.*wrong sign"),
    attention(7, "sorted alibi", BLOOM, "ALiBi.*order"),
    attention(7, "no alibi", BLOOM, "no ALiBi"),
    Variant(8, "one-sided buckets", PAIR, "encoder", "one-sided", {"encoder_stack": "sides"}, inputs="pairs"),
    Variant(8, "two-sided buckets", PAIR, "decoder", "two-sided", {"stack": "sides"}, inputs="pairs"),
    Variant(8, "bias of the first", PAIR, r"decoder|decoder\.layers\.1\.attention", "bias",
            {"stack": "bias of the first"}, inputs="pairs"),
    Variant(9, "cross scale", CROSSED, "decoder.layers.1.cross_attention", "does not scale the scores",
            {"cross": "scale"}, inputs="pairs"),
    Variant(9, "cross scale twice", CROSSED, "decoder.layers.1.cross_attention", "scales the scores twice",
            {"cross": "scale twice"}, inputs="pairs"),
    attention(10, "tiled", LLAMA, "tiles the key/value heads"),
    attention(10, "tiled", WIDE, "tiles the key/value heads"),
    attention(11, "cut", NEOX, "in blocks or by head"),
    attention(11, "cut", GPT2, "in blocks or by head"),
    in_model(12, "mask inverted", BERT, "inverts the mask", inputs="padded"),
    in_model(12, "mask of another", LLAMA, "mask of another sample", inputs="padded"),
    Variant(12, "cross mask missing", CROSSED, "decoder.layers.1.cross_attention", "ignores the mask",
            {"cross": "no mask"}, inputs="pairs"),
    attention(12, "mask of queries", BERT, "mask to queries", inputs="padded"),
    attention(13, "no scaling", LINEAR, "does not scale positions"),
    attention(13, "llama3", LLAMA, "llama3", layer=1),
    attention(13, "no scaling", YARN, "YaRN"),
    attention(13, "half turned", FULL, "only half of the features"),
    attention(14, "no qk-norm", QWEN, "does not (apply|normali).*q_norm"),
    attention(14, "qk-norm late", QWEN, "RoPE.*before `[qk]_norm`"),
    attention(15, "no softcap", GEMMA, "does not cap the scores"),
    in_model(15, "no cap", GEMMA, "no softcap 9"),
    mlp(16, "quick", BERT, "applies QuickGELU where the reference applies GELU"),
    mlp(16, "silu", GPT2, "applies SiLU where the reference applies tanh-GELU"),
    mlp(16, "relu2", GEMMA, "applies squared ReLU where the reference applies tanh-GELU"),
    mlp(16, "gate and up", LLAMA, "gate and up are swapped"),
    Variant(17, "eps 1e-6", LLAMA, "model.layers.0.attention_norm", "eps 1e-06, and the reference 1e-05",
            {"norm": "eps 1e-6"}, layer=0),
    Variant(17, "eps 1e-8", GPT2, "model.layers.0.attention_norm", "eps 1e-08, and the reference 1e-05",
            {"norm": "eps 1e-8"}, layer=0),
    Variant(17, "no bias", OPT, "model.layers.1.attention_norm", "does not use its bias", {"norm": "no bias"}),
    Variant(17, "plain weight", GEMMA, "model.layers.1.attention_norm", "weight instead of 1 . weight",
            {"norm": "plain weight"}),
    in_model(18, "embedding scale", GEMMA, r"does not multiply by sqrt\(32\)"),
    in_model(18, "offset", OPT, "too small by 2 before `positions`"),
    in_model(18, "padding counted", ROBERTA, "counts padding", inputs="padded"),
    attention(19, "axes", GPT2, "exchanges batch and length|axes 0 and 1 swapped"),
    attention(19, "softmax of queries", OPT, "softmax over the queries"),
    attention(19, "reversed", LLAMA, "in reverse"),
    Variant(20, "dropout", BERT, r"model\.layers\.\d(\.mlp.*)?", "dropout is on", {"mlp": "dropout"}),
    weights(20, "float16", LLAMA, rounded(jnp.float16), "embed", "rounded to float16", quiet=True),
    weights(20, "int8", OPT, kernel("model.layers.1.mlp.up_proj", to_int8), f"{MLP}.up_proj", "rounded to int8"),
    weights(20, "shard", BERT, kernel("model.layers.1.attention.q_proj", shard), f"{ATTENTION}.q_proj", "shard 0 of 2"),
    attention(21, "scale and tiled", LLAMA, "(?=.*tiles)(?=.*does not scale)"),
    Variant(21, "no softcap, gate and up", GEMMA, f"{ATTENTION}&&{MLP}", "does not cap&&gate and up are swapped",
            {"attention": "no softcap", "mlp": "gate and up"}),
    Variant(21, "order, bias, late", NEOX, f"{ATTENTION}.query_key_value&&{ATTENTION}",
            "another order&&only zeros&&one position after",
            {"attention": "late"},
            change=both(kernel("model.layers.1.attention.query_key_value", by_blocks),
                        no_bias("model.layers.1.attention.query_key_value"))),
    Variant(21, "post-norm and int8", LLAMA, f"{MLP}.down_proj&&model.layers.1", "int8&&norm is after the residual",
            {"layer": "post"}, change=kernel("model.layers.1.mlp.down_proj", to_int8)),
)  # fmt: skip
HEALTHY = (
    *(Variant(0, "right", shape) for shape in (LLAMA, GEMMA, GPT2, OPT, NEOX, BLOOM, QWEN, LLAMA3, YARN)),
    *(Variant(0, "right", shape, inputs="padded") for shape in (BERT, ROBERTA, LLAMA)),
    *(Variant(0, "right", shape, inputs="pairs") for shape in (PAIR, CROSSED)),
    Variant(0, "right", LLAMA, inputs="decoding"),
)
