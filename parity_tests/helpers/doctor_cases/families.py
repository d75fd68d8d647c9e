"""The small models: a decoder as Llama, Gemma, OPT, GPT-2, GPT-NeoX, an encoder as BERT, and others."""

from dataclasses import replace

from parity_tests.helpers.doctor_cases.shape import Rope, Shape

LLAMA = Shape(
    kv_heads=2, norm="rms", activation="silu", gated=True, biased=False, rope=Rope(150000.0), mask="additive"
)
FULL = replace(LLAMA, kv_heads=4, rope=Rope())
WIDE = replace(LLAMA, heads=6, kv_heads=2)
DEEP = replace(LLAMA, layers=6)
QWEN = replace(LLAMA, qk_norm=True)
LINEAR, LLAMA3, YARN = (
    replace(LLAMA, rope=Rope(10000.0, scaling=kind)) for kind in ("linear", "llama3", "yarn")
)
GEMMA = Shape(
    kv_heads=2, norm="gemma", eps=1e-6, activation="gelu_tanh", gated=True, biased=False, rope=Rope(),
    softcap=4.0, cap=9.0, embed_scaled=True, tied=True,
)  # fmt: skip
GPT2 = Shape(activation="gelu_tanh", fused="blocks", positions="learned", tied=True)
OPT = Shape(activation="relu", positions="offset")
NEOX = Shape(order="parallel", fused="heads", rope=Rope(turned=4))
BERT = Shape(order="post", causal=False, positions="learned", mask="additive")
ROBERTA = replace(BERT, positions="padding", mask="boolean")
BLOOM = Shape(heads=6, kv_heads=6, alibi=True, activation="gelu_tanh")
T5 = Shape(norm="rms", biased=False, activation="relu", buckets=True, scaled=False, embed_scaled=True)
T5_ENCODER = replace(T5, causal=False)
CROSS = Shape(norm="layer", activation="silu", rope=Rope(10000.0, pairing="interleaved"))
CROSS_ENCODER = replace(CROSS, causal=False)
