"""Entries of alternatives to the scaled softmax of scores."""

from functools import partial

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import EMBED, HEADS, HEADS_SELF, KEEP_SELF, SEQUENCE
from attention_bridge.oracles import scores as oracles

FOUR_HEADS = {**SIZES, "heads": 4}  # 3 features per head, two groups
GROUPED = {"embed_dim": EMBED, "num_heads": 4, "num_kv_heads": 2}
SOFTCAP, SCALE = 1.5, 0.7  # scores in the tests come near this cap
ALL_HEADS_ALIKE = {"mask": ("batch", "one", "query", "query")}

SCORES_FAMILY: tuple[Mechanism, ...] = (
    Mechanism(
        name="SoftcapAttention",
        family="scores",
        file="scores/softcap.py",
        paper=Paper("Gemma Team", 2024, "https://arxiv.org/abs/2408.00118"),
        equation=r"\mathrm{softmax}\left(c \tanh(s\,Q_h K_g^\top / c)\right) V_g",
        module=Part("SoftcapAttention", {**GROUPED, "softcap": SOFTCAP, "scale": SCALE}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        sizes=FOUR_HEADS,
        oracle=partial(oracles.softcap_attention, num_heads=4, num_kv_heads=2, softcap=SOFTCAP, scale=SCALE),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("transformers Gemma2Attention",),
    ),
    Mechanism(
        name="QKNormAttention",
        family="scores",
        file="scores/qk_norm.py",
        paper=Paper("Henry et al.", 2020, "https://arxiv.org/abs/2010.04245"),
        equation=r"\mathrm{softmax}\left(\hat{Q}_h \hat{K}_g^\top / \sqrt{d}\right) V_g,"
        r" \quad \hat{q} = \gamma \odot q / \sqrt{\mathrm{mean}_{d}(q^2) + \epsilon}",
        module=Part("QKNormAttention", GROUPED),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        sizes=FOUR_HEADS,
        oracle=partial(oracles.qk_norm_attention, num_heads=4, num_kv_heads=2, full_width=False),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("transformers Qwen3Attention",),
    ),
    Mechanism(
        name="FullWidthQKNormAttention",
        family="scores",
        file="scores/qk_norm.py",
        paper=Paper("OLMo Team", 2024, "https://arxiv.org/abs/2501.00656"),
        equation=r"\mathrm{softmax}\left(\hat{Q}_h \hat{K}_g^\top / \sqrt{d}\right) V_g,"
        r" \quad \hat{q} = \gamma \odot q / \sqrt{\mathrm{mean}_{H d}(q^2) + \epsilon}",
        module=Part("FullWidthQKNormAttention", GROUPED),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        sizes=FOUR_HEADS,
        oracle=partial(oracles.qk_norm_attention, num_heads=4, num_kv_heads=2, full_width=True),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("transformers Olmo2Attention",),
    ),
    Mechanism(
        name="CosineAttention",
        family="scores",
        file="scores/cosine.py",
        paper=Paper("Liu et al.", 2022, "https://arxiv.org/abs/2111.09883"),
        equation=r"\mathrm{softmax}\left(\min(e^{t_h}, \tau_{\max}) \cos(Q_h, K_h)\right) V_h",
        module=Part("CosineAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.cosine_attention, num_heads=HEADS),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("transformers Swinv2SelfAttention",),
    ),
    Mechanism(
        name="SigmoidAttention",
        family="scores",
        file="scores/sigmoid.py",
        paper=Paper("Ramapuram et al.", 2024, "https://arxiv.org/abs/2409.04431"),
        equation=r"\sigma\left(Q_h K_h^\top / \sqrt{d} - \log n\right) V_h",
        module=Part("SigmoidAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.sigmoid_attention, num_heads=HEADS),
        decoding="cache",
        decoding_options={"is_causal": True, "shift": -2.0},
        peers=("x-transformers Attention(sigmoid)",),
    ),
    Mechanism(
        name="SparsemaxAttention",
        family="scores",
        file="scores/sparsemax.py",
        paper=Paper("Martins & Astudillo", 2016, "https://arxiv.org/abs/1602.02068"),
        equation=r"\mathrm{sparsemax}\left(Q_h K_h^\top / \sqrt{d}\right) V_h,"
        r" \quad \mathrm{sparsemax}(z) = \arg\min_{p \in \Delta} \lVert p - z \rVert^2",
        module=Part("SparsemaxAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.sparse_attention, oracles.sparsemax, num_heads=HEADS),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("entmax sparsemax",),
    ),
    Mechanism(
        name="Entmax15Attention",
        family="scores",
        file="scores/entmax.py",
        paper=Paper("Peters, Niculae & Martins", 2019, "https://arxiv.org/abs/1905.05702"),
        equation=r"\mathrm{entmax}_{1.5}\left(Q_h K_h^\top / \sqrt{d}\right) V_h,"
        r" \quad \mathrm{entmax}_{1.5}(z)_j = \max(z_j / 2 - \tau, 0)^2",
        module=Part("Entmax15Attention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.sparse_attention, oracles.entmax15, num_heads=HEADS),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("entmax entmax15",),
    ),
    Mechanism(
        name="TalkingHeadsAttention",
        family="scores",
        file="scores/talking_heads.py",
        paper=Paper("Shazeer et al.", 2020, "https://arxiv.org/abs/2003.02436"),
        equation=r"\left(P^{\mathrm{post}} \mathrm{softmax}(P^{\mathrm{pre}} Q K^\top / \sqrt{d})\right) V",
        module=Part("TalkingHeadsAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=ALL_HEADS_ALIKE,
        keep=KEEP_SELF,
        oracle=partial(oracles.talking_heads_attention, num_heads=HEADS),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("x-transformers Attention(talking heads)",),
    ),
)
