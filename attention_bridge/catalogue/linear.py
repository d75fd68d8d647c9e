"""Entries of linear attention, without a softmax, in time linear in the length."""

from functools import partial

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import EMBED, HEADS, PADDING, SEQUENCE
from attention_bridge.oracles import linear as oracles

KATHAROPOULOS = Paper("Katharopoulos et al.", 2020, "https://arxiv.org/abs/2006.16236")
CHOROMANSKI = Paper("Choromanski et al.", 2020, "https://arxiv.org/abs/2009.14794")

SELF = {"embed_dim": EMBED, "num_heads": HEADS}
CHUNKED = {**SELF, "chunk_size": 2}  # 5 tokens: two full chunks and a partial one
FEATURES = {"num_features": 7}  # 4 dimensions: a full orthogonal block and a partial one

LINEAR_FAMILY = (
    Mechanism(
        name="LinearAttention",
        family="linear",
        file="linear/kernel.py",
        paper=KATHAROPOULOS,
        growth="n",
        equation=r"\frac{\phi(q_i)^\top \sum_{j \le i} \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_{j \le i} \phi(k_j)}, "
        r"\quad \phi(x) = \mathrm{elu}(x) + 1",
        module=Part("LinearAttention", CHUNKED),
        inputs=SEQUENCE,
        masks=PADDING,
        causal=True,
        oracle=partial(oracles.linear_attention, num_heads=HEADS),
        decoding="state",
        peers=("flash-linear-attention naive_recurrent_linear_attn",),
    ),
    Mechanism(
        name="LinearAttention-bidirectional",
        family="linear",
        file="linear/kernel.py",
        paper=KATHAROPOULOS,
        growth="n",
        equation=r"\frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_j \phi(k_j)}",
        module=Part("LinearAttention", {**SELF, "is_causal": False}),
        inputs=SEQUENCE,
        masks=PADDING,
        oracle=partial(oracles.linear_attention, num_heads=HEADS, is_causal=False),
        no_peer="the causal form is compared; this one differs in which keys are summed over",
    ),
    Mechanism(
        name="PerformerAttention",
        family="linear",
        file="linear/performer.py",
        paper=CHOROMANSKI,
        growth="n",
        equation=r"\frac{\phi(q_i)^\top \sum_{j \le i} \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_{j \le i} \phi(k_j)}, "
        r"\quad \phi(x) = \exp(\omega^\top x - |x|^2 / 2) / \sqrt{m}",
        module=Part("PerformerAttention", {**CHUNKED, **FEATURES}),
        inputs=SEQUENCE,
        masks=PADDING,
        causal=True,
        oracle=partial(oracles.performer, num_heads=HEADS),
        decoding="state",
        peers=("performer-pytorch FastAttention",),
    ),
    Mechanism(
        name="PerformerAttention-bidirectional",
        family="linear",
        file="linear/performer.py",
        paper=CHOROMANSKI,
        growth="n",
        equation=r"\frac{\phi(q_i)^\top \sum_j \phi(k_j) v_j^\top}{\phi(q_i)^\top \sum_j \phi(k_j)}",
        module=Part("PerformerAttention", {**SELF, **FEATURES, "is_causal": False}),
        inputs=SEQUENCE,
        masks=PADDING,
        oracle=partial(oracles.performer, num_heads=HEADS, is_causal=False),
        peers=("performer-pytorch FastAttention",),
    ),
    Mechanism(
        name="MultiScaleRetention",
        family="linear",
        file="linear/retention.py",
        paper=Paper("Sun et al.", 2023, "https://arxiv.org/abs/2307.08621"),
        growth="n",
        equation=r"S_n = \gamma_h e^{-i\theta} S_{n-1} + k_n v_n^\top, \; o_n = S_n^\top q_n, "
        r"\quad (\mathrm{SiLU}(x W_G) \odot \mathrm{RMS}(o)) W_O",
        module=Part("MultiScaleRetention", CHUNKED),
        inputs=SEQUENCE,
        masks=PADDING,
        causal=True,
        oracle=partial(oracles.retention, num_heads=HEADS),
        decoding="state",
        peers=("flash-linear-attention MultiScaleRetention",),
    ),
    Mechanism(
        name="GatedLinearAttention",
        family="linear",
        file="linear/gated_linear.py",
        paper=Paper("Yang et al.", 2023, "https://arxiv.org/abs/2312.06635"),
        growth="n",
        equation=r"S_t = \mathrm{diag}(\alpha_t) S_{t-1} + k_t v_t^\top, \; o_t = S_t^\top q_t, "
        r"\quad \alpha_t = \sigma(x_t W_1 W_2 + b)^{1/\tau}",
        module=Part("GatedLinearAttention", {**CHUNKED, "value_dim": 7, "gate_rank": 4}),
        inputs=SEQUENCE,
        masks=PADDING,
        causal=True,
        sizes=SIZES,
        oracle=partial(oracles.gated_linear_attention, num_heads=HEADS),
        decoding="state",
        peers=("flash-linear-attention GatedLinearAttention",),
    ),
)
