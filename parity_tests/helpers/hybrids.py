"""Language models with different kinds of layers, as catalogue entries for the proofs."""

from functools import partial

import numpy as np

from attention_bridge.catalogue import DTYPES, SIZES, Mechanism, Paper, Part
from attention_bridge.catalogue.shared import EMBED, FFN, PADDING
from attention_bridge.oracles import delta, gates, heads, patterns
from attention_bridge.oracles import language_model as oracles
from attention_bridge.oracles.positions import rotary
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec

NORM = Part("rms_norm", {"eps": 0.01})
FEED_FORWARD = Part("GatedFeedForward", {"ffn_dim": FFN})
EXPERTS = Part(
    "MixtureOfExperts",
    {
        "ffn_dim": 7,
        "num_experts": 5,
        "routing": Part("SoftmaxRouting", {"num_chosen": 2}),
        "shared_dim": 9,
        "shared_gate": True,
    },
)
DELTA = {"num_heads": 2, "num_value_heads": 4, "head_dim": 5, "value_dim": 3, "eps": 0.01}
GATED = {"num_heads": 4, "num_kv_heads": 2}
HEAD_NORM = Part("rms_norm", {"dim": 6})
ROTARY = Part("RotaryEmbedding", {"head_dim": 6, "rotary_dim": 4})
MAMBA = {"num_heads": 3, "head_dim": 4, "state_dim": 5, "num_groups": 1, "eps": 0.01}
LATENT = {"num_heads": 3, "kv_lora_rank": 8, "nope_head_dim": 3, "rope_head_dim": 4}

delta_layer = layer_spec(Part("GatedDeltaNet", {**DELTA, "chunk_size": 2}), EXPERTS, "pre", NORM)
gated_layer = layer_spec(
    Part(
        "GatedAttention",
        {**GATED, "head_dim": 6, "q_norm": HEAD_NORM, "k_norm": HEAD_NORM, "position": ROTARY, "bias": False},
    ),
    EXPERTS,
    "pre",
    NORM,
)
mamba_layer = layer_spec(Part("Mamba2", {**MAMBA, "chunk_size": 2}), None, "pre", NORM)
window_layer = layer_spec(
    Part("SlidingWindowAttention", {"num_heads": 3, "window": 3}), FEED_FORWARD, "pre", NORM
)
latent_layer = layer_spec(
    Part(
        "MultiHeadLatentAttention",
        {
            **LATENT,
            "value_head_dim": 2,
            "q_lora_rank": 7,
            "position": Part("RotaryEmbedding", {"head_dim": 4, "interleaved": True}),
        },
    ),
    FEED_FORWARD,
    "pre",
    NORM,
)
SCALED = {**MAMBA, "norm_order": "before_gate", "part_scales": (0.7, 1.3, 0.6, 1.7, 0.9)}
SCALES = {"attention_scales": (0.6, 1.4), "recurrent_scales": (1.2, 0.8)}
GROUPS = {"num_heads": 3, "num_kv_heads": 1}
parallel_layer = layer_spec(
    Part(
        "ParallelMixers",
        {
            "attention_mixer": Part("GroupedQueryAttention", {**GROUPS, "head_dim": 6, "position": ROTARY}),
            "recurrent_mixer": Part("Mamba2", {**SCALED, "chunk_size": 2, "out_bias": True}),
            **SCALES,
        },
    ),
    Part("GatedFeedForward", {"ffn_dim": FFN, "gate_scale": 0.7, "output_scale": 1.6}),
    "pre",
    NORM,
)

experts = partial(oracles.softmax_experts, num_experts=5, num_chosen=2)
POSITIONS = np.arange(SIZES["query"])[None]


def turn(heads):
    return rotary(heads, POSITIONS, 4)


def hybrid(name, layers, mixers, ffns, dtypes=DTYPES, **others):
    """A catalogue entry for such a model, with its oracle; `others` are further fields of its description."""
    return Mechanism(
        name=name,
        family="models",
        file="models/language.py",
        paper=Paper("Yang, Kautz & Hatamizadeh", 2024, "https://arxiv.org/abs/2412.06464"),
        equation=r"x \leftarrow x + f(\mathrm{norm}(x))",
        module=language_model(model_spec(SIZES["vocab"], EMBED, layers, norm=NORM, **others)),
        inputs={},
        tokens={"tokens": ("batch", "query")},
        masks=PADDING,
        oracle=partial(oracles.language_model, mixers=mixers, ffns=ffns, eps=0.01),
        causal=others.get("is_causal", True),
        decoding="caches" if others.get("is_causal", True) else "",
        dtypes=dtypes,
    )


HYBRIDS = (
    hybrid(
        "three memories, then gated attention",
        [delta_layer, delta_layer, delta_layer, gated_layer],
        [
            *[partial(delta.gated_delta_net, **DELTA)] * 3,
            partial(gates.gated_attention, **GATED, is_causal=True, turn=turn),
        ],
        [experts] * 4,
        ("float32", "float64"),  # in bfloat16, ties change the selected experts
    ),
    hybrid(
        "a state space, a window, latents",
        [mamba_layer, window_layer, latent_layer],
        [
            partial(delta.mamba2, **MAMBA),
            partial(patterns.sliding_window_attention, num_heads=3, window=3),
            partial(heads.multi_head_latent_attention, **LATENT, positions=POSITIONS),
        ],
        [None, oracles.gated_feed_forward, oracles.gated_feed_forward],
    ),
    hybrid(
        "attention beside a state space",
        [parallel_layer, window_layer],
        [
            partial(
                oracles.parallel_mixers,
                attention=partial(heads.grouped_query_attention, **GROUPS, is_causal=True, turn=turn),
                recurrent=partial(delta.mamba2, **SCALED),
                **SCALES,
            ),
            partial(patterns.sliding_window_attention, num_heads=3, window=3),
        ],
        [
            partial(oracles.gated_feed_forward, gate_scale=0.7, output_scale=1.6),
            oracles.gated_feed_forward,
        ],
    ),
)
ENCODER = hybrid(
    "an encoder",
    [
        layer_spec(
            Part(
                "GroupedQueryAttention",
                {
                    **GATED,
                    "head_dim": 3,
                    "position": Part("RotaryEmbedding", {"head_dim": 3, "rotary_dim": 2}),
                },
            ),
            FEED_FORWARD,
            "pre",
            NORM,
        )
    ],
    [partial(heads.grouped_query_attention, **GATED, turn=lambda x: rotary(x, POSITIONS, 2))],
    [oracles.gated_feed_forward],
    is_causal=False,
    num_types=2,
)
