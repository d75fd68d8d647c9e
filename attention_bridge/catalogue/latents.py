"""Entries of attention with learned queries, and of attention over sets."""

from functools import partial

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import HEADS, HEADS_CROSS, HEADS_SELF, KEEP_CROSS, KEEP_SELF, PADDING
from attention_bridge.oracles import latents as oracles

# Learned vectors are the queries; their number is the size of the axis `query`.
INPUT = {"x": ("batch", "key", "key_dim")}
SMALL = {**SIZES, "embed": 6}  # 3 heads of 2 features
SET = {"x": ("batch", "query", "embed")}
ELEMENTS = {"x": ("batch", "key", "embed")}
KEY_PADDING = {"mask": ("batch", "one", "one", "key")}
LEE = Paper("Lee et al.", 2019, "https://arxiv.org/abs/1810.00825")
# GELU instead of the default ReLU: in bfloat16 rounding can move a number across the kink of ReLU.
BLOCK = {"embed_dim": 6, "num_heads": HEADS, "activation": "gelu"}

LATENTS_FAMILY = (
    Mechanism(
        name="PerceiverAttention",
        family="latents",
        file="latents/perceiver.py",
        paper=Paper("Jaegle et al.", 2021, "https://arxiv.org/abs/2103.03206"),
        growth="n",
        equation=r"z' = z + \mathrm{MHA}(\mathrm{LN}(z), \mathrm{LN}(x)), \quad z \text{ learned}",
        module=Part(
            "PerceiverAttention",
            {"num_latents": 5, "latent_dim": 8, "input_dim": 10, "num_heads": HEADS, "embed_dim": 6},
        ),
        inputs=INPUT,
        masks=HEADS_CROSS,
        keep=KEEP_CROSS,
        oracle=partial(oracles.perceiver_attention, num_heads=HEADS),
        peers=("transformers PerceiverAttention",),
    ),
    Mechanism(
        name="AttentionPooling",
        family="latents",
        file="latents/pooling.py",
        paper=Paper("Zhai et al.", 2022, "https://arxiv.org/abs/2106.04560"),
        growth="n",
        equation=r"h = \mathrm{MHA}(p, x), \quad y = h + \mathrm{MLP}(\mathrm{LN}(h)), \quad p \text{ learned}",
        module=Part("AttentionPooling", {"embed_dim": 6, "num_heads": HEADS, "ffn_dim": 9, "num_probes": 5}),
        inputs=ELEMENTS,
        masks=HEADS_CROSS,
        keep=KEEP_CROSS,
        sizes=SMALL,
        oracle=partial(oracles.attention_pooling, num_heads=HEADS),
        peers=("transformers SiglipMultiheadAttentionPoolingHead",),
    ),
    Mechanism(
        name="MultiheadAttentionBlock",
        family="latents",
        file="latents/attention_block.py",
        paper=LEE,
        equation=r"\mathrm{LN}(H + f(H)), \quad H = \mathrm{LN}(X + \mathrm{Multihead}(X, Y, Y))",
        module=Part("MultiheadAttentionBlock", BLOCK),
        inputs={"query": ("batch", "query", "embed"), "memory": ("batch", "key", "embed")},
        masks=HEADS_CROSS,
        keep=KEEP_CROSS,
        sizes=SMALL,
        oracle=partial(oracles.multihead_attention_block, num_heads=HEADS, activation="gelu"),
        peers=("torch MultiheadAttention, LayerNorm and Linear",),
    ),
    Mechanism(
        name="SetAttentionBlock",
        family="latents",
        file="latents/set_transformer.py",
        paper=LEE,
        equation=r"\mathrm{MAB}(X, X)",
        module=Part("SetAttentionBlock", BLOCK),
        inputs=SET,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        sizes=SMALL,
        oracle=partial(oracles.set_attention_block, num_heads=HEADS, activation="gelu"),
        peers=("torch MultiheadAttention, LayerNorm and Linear",),
    ),
    Mechanism(
        name="InducedSetAttentionBlock",
        family="latents",
        file="latents/set_transformer.py",
        paper=LEE,
        growth="n",
        equation=r"\mathrm{MAB}(X, \mathrm{MAB}(I, X))",
        module=Part("InducedSetAttentionBlock", {**BLOCK, "num_inducing": 4}),
        inputs=SET,
        masks=PADDING,
        sizes=SMALL,
        oracle=partial(oracles.induced_set_attention_block, num_heads=HEADS, activation="gelu"),
        peers=("torch MultiheadAttention, LayerNorm and Linear",),
    ),
    Mechanism(
        name="PoolingByAttention",
        family="latents",
        file="latents/set_transformer.py",
        paper=LEE,
        growth="n",
        equation=r"\mathrm{MAB}(S, f(Z))",
        module=Part("PoolingByAttention", {**BLOCK, "num_seeds": 5}),
        inputs=ELEMENTS,
        masks=HEADS_CROSS,
        keep=KEEP_CROSS,
        sizes=SMALL,
        oracle=partial(oracles.pooling_by_attention, num_heads=HEADS, activation="gelu"),
        peers=("torch MultiheadAttention, LayerNorm and Linear",),
    ),
    Mechanism(
        name="SlotAttention",
        family="latents",
        file="latents/slot_attention.py",
        paper=Paper("Locatello et al.", 2020, "https://arxiv.org/abs/2006.15055"),
        growth="n",
        equation=r"s_i \leftarrow \mathrm{GRU}\left(\sum_j W_{ij} v_j, s_i\right), \quad "
        r"W_{ij} \propto \operatorname{softmax}_i(q_i^\top k_j / \sqrt{D}) + \epsilon",
        module=Part(
            "SlotAttention",
            {"input_dim": 10, "slot_dim": 6, "ffn_dim": 9, "num_iterations": 2, "activation": "gelu"},
        ),
        inputs={**INPUT, "noise": ("batch", "query", "embed")},
        masks=KEY_PADDING,
        sizes=SMALL,
        oracle=partial(oracles.slot_attention, num_iterations=2, activation="gelu"),
        peers=("slot_attention SlotAttention",),
    ),
)
