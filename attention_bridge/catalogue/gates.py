"""Entries of gated, differential and forgetting attention."""

from functools import partial

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import EMBED, HEADS, HEADS_SELF, KEEP_SELF, SEQUENCE
from attention_bridge.oracles import gates as oracles

QIU = Paper("Qiu et al.", 2025, "https://arxiv.org/abs/2505.06708")
FOUR_HEADS = {**SIZES, "heads": 4}  # 3 features per head, two groups
GROUPED = {"embed_dim": EMBED, "num_heads": 4, "num_kv_heads": 2}
# Near 0.4 the gradient of λ is close to zero for the weights of the tests, so that all its digits cancel.
LAMBDA_INIT = 0.6
NORMS = {"q_norm": Part("rms_norm", {"dim": 3}), "k_norm": Part("rms_norm", {"dim": 3})}

GATES_FAMILY: tuple[Mechanism, ...] = (
    Mechanism(
        name="GatedAttention",
        family="gates",
        file="gates/gated.py",
        paper=QIU,
        equation=r"\mathrm{concat}_h\left(\mathrm{head}_h \odot \sigma(X W_h^{\mathrm{gate}})\right) W^O",
        module=Part("GatedAttention", {**GROUPED, **NORMS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        sizes=FOUR_HEADS,
        oracle=partial(oracles.gated_attention, num_heads=4, num_kv_heads=2),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("transformers Qwen3NextAttention", "transformers AfmoeAttention", "keras MultiHeadAttention"),
    ),
    Mechanism(
        name="HeadwiseGatedAttention",
        family="gates",
        file="gates/gated.py",
        paper=QIU,
        equation=r"\mathrm{concat}_h\left(\sigma(X w_h^{\mathrm{gate}})\, \mathrm{head}_h\right) W^O",
        module=Part("HeadwiseGatedAttention", GROUPED),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        sizes=FOUR_HEADS,
        oracle=partial(oracles.gated_attention, num_heads=4, num_kv_heads=2),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("x-transformers Attention(gate_values_headwise)",),
    ),
    Mechanism(
        name="DifferentialAttention",
        family="gates",
        file="gates/differential.py",
        paper=Paper("Ye et al.", 2024, "https://arxiv.org/abs/2410.05258"),
        equation=r"(1 - \lambda_{\mathrm{init}})\, \mathrm{RMSNorm}\left((A_{2h} - \lambda A_{2h+1}) V_h\right)",
        module=Part(
            "DifferentialAttention", {"embed_dim": EMBED, "num_heads": HEADS, "lambda_init": LAMBDA_INIT}
        ),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.differential_attention, num_heads=HEADS, lambda_init=LAMBDA_INIT),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("transformers DiffLlamaAttention",),
    ),
    Mechanism(
        name="ForgettingAttention",
        family="gates",
        file="gates/forgetting.py",
        paper=Paper("Lin et al.", 2025, "https://arxiv.org/abs/2503.02130"),
        equation=r"\mathrm{softmax}\left(Q_h K_h^\top / \sqrt{d} + \sum_{l=j+1}^{i} \log f_{h,l}\right) V_h,"
        r" \quad f_{h,l} = \sigma(w_h \cdot x_l + b_h)",
        module=Part("ForgettingAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        causal=True,
        oracle=partial(oracles.forgetting_attention, num_heads=HEADS),
        decoding="cache",
        peers=("flash-linear-attention naive_forgetting_attn", "x-transformers DataDependentAlibi"),
    ),
)
