"""Entries of attention with shared or compressed heads of keys and values."""

from functools import partial
from typing import Any

import numpy as np

from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Paper
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import EMBED, HEADS, HEADS_SELF, KEEP_SELF, SEQUENCE
from attention_bridge.oracles import heads as oracles

DEEPSEEK_V2 = Paper("DeepSeek-AI", 2024, "https://arxiv.org/abs/2405.04434")
POSITIONS = np.array([[0, 1, 3, 4, 9], [2, 3, 5, 7, 8]])  # with gaps, different in the two batch elements
LATENT: dict[str, Any] = {"num_heads": HEADS, "kv_lora_rank": 8, "nope_head_dim": 3, "rope_head_dim": 4}
LATENT_MODULE = {
    **LATENT,
    "embed_dim": EMBED,
    "value_head_dim": 2,
    "q_lora_rank": 7,
    "position": Part("RotaryEmbedding", {"head_dim": 4, "interleaved": True}),
}
FOUR_HEADS = {**SIZES, "heads": 4}  # 3 features per head, two groups


def latent_attention_without_cache(*args: Any, **kwargs: Any) -> Any:
    """Output and weights of the oracle."""
    output, _, weights = oracles.multi_head_latent_attention(*args, **kwargs)
    return output, weights


HEADS_FAMILY = (
    Mechanism(
        name="GroupedQueryAttention",
        family="heads",
        file="heads/grouped_query.py",
        paper=Paper("Ainslie et al.", 2023, "https://arxiv.org/abs/2305.13245"),
        equation=r"\mathrm{softmax}\left(Q_h K_g^\top / \sqrt{d}\right) V_g, \quad g = \lfloor h G / H \rfloor",
        module=Part("GroupedQueryAttention", {"embed_dim": 12, "num_heads": 4, "num_kv_heads": 2}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        sizes=FOUR_HEADS,
        oracle=partial(oracles.grouped_query_attention, num_heads=4, num_kv_heads=2),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("transformers LlamaAttention",),
    ),
    Mechanism(
        name="MultiQueryAttention",
        family="heads",
        file="heads/multi_query.py",
        paper=Paper("Shazeer", 2019, "https://arxiv.org/abs/1911.02150"),
        equation=r"\mathrm{softmax}\left(X W_{Q,h} (X W_K)^\top / \sqrt{d}\right) X W_V",
        module=Part("MultiQueryAttention", {"embed_dim": EMBED, "num_heads": HEADS}),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        oracle=partial(oracles.multi_query_attention, num_heads=HEADS),
        decoding="cache",
        decoding_options={"is_causal": True},
        peers=("transformers GPTBigCodeAttention", "x-transformers Attention with one_kv_head"),
    ),
    Mechanism(
        name="MultiHeadLatentAttention",
        family="heads",
        file="heads/latent.py",
        paper=DEEPSEEK_V2,
        equation=r"c = \mathrm{norm}(W_{DKV} x), \; [k^C_h; v_h] = W_{UKV,h}\, c, \; "
        r"k_h = [k^C_h; R\, W_{KR} x], \; q_h = [q^C_h; R\, q^R_h]",
        module=Part("MultiHeadLatentAttention", LATENT_MODULE),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        arguments={"positions": POSITIONS},
        oracle=partial(latent_attention_without_cache, **LATENT),
        causal=True,
        decoding="cache",
        peers=("transformers DeepseekV3Attention", "transformers DeepseekV3Attention, q_lora_rank=None"),
    ),
    Mechanism(
        name="AbsorbedLatentAttention",
        family="heads",
        file="heads/absorbed_latent.py",
        paper=DEEPSEEK_V2,
        equation=r"(W_{UK,h}^\top q^C_h)^\top c_s + {q^R_h}^\top k^R_s, \quad W_{UV,h} \sum_s \alpha_s c_s",
        module=Part("AbsorbedLatentAttention", LATENT_MODULE),
        inputs=SEQUENCE,
        masks=HEADS_SELF,
        keep=KEEP_SELF,
        arguments={"positions": POSITIONS},
        oracle=partial(latent_attention_without_cache, **LATENT),
        causal=True,
        decoding="cache",
        peers=("transformers DeepseekV3Attention with a cache",),
    ),
)
