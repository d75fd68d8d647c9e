"""`hf.nomic_bert`, `hf.jina_embeddings_v3` and `hf.gte`: encoders like BERT with rotary positions and joined tensors.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/gte/modeling_gte.py
"""

from attention_bridge.weights.layout import Layout, ZeroBias
from attention_bridge.weights.layouts.hf_bert import HEADS
from attention_bridge.weights.rule import Rule

TOKENS = Rule("embeddings.{word,token_type}_embeddings.weight", "{token,type}_embedding.weight")
POOLER = Rule("pooler.dense.{name}", "pooler.{name}")
LAYER = "encoder.layers.{n}."


def joined(theirs: str) -> tuple[Rule, Rule]:
    """Rules of a tensor that holds queries, keys and values."""
    ours = "layers.{n}.attention.{q,k,v}_proj."
    return (
        Rule(f"{theirs}.weight", f"{ours}weight", "(three rows) columns -> three rows columns"),
        Rule(f"{theirs}.bias", f"{ours}bias", "(three rows) -> three rows"),
    )


HF_NOMIC_BERT = Layout(
    "hf.nomic_bert",
    rules=(
        TOKENS,
        Rule("emb_ln.{name}", "embedding_norm.{name}"),
        *joined(LAYER + "attn.Wqkv"),
        Rule(LAYER + "attn.out_proj.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule(LAYER + "{norm1,norm2}.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        Rule(LAYER + "mlp.{fc11,fc12,fc2}.{name}", "layers.{n}.ffn.{up,gate,down}_proj.{name}"),
        POOLER,
    ),
    spellings=(("nomic_bert.{rest}", "{rest}"),),
    unused=HEADS,
)
HF_JINA_EMBEDDINGS_V3 = Layout(
    "hf.jina_embeddings_v3",
    rules=(
        TOKENS,
        Rule("emb_ln.{name}", "embedding_norm.{name}"),
        *joined(LAYER + "mixer.Wqkv"),
        Rule(LAYER + "mixer.out_proj.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule(LAYER + "{norm1,norm2}.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        Rule(LAYER + "mlp.{fc1,fc2}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
        POOLER,
    ),
    spellings=(("roberta.{rest}", "{rest}"),),
    unused=HEADS,
)
HF_GTE = Layout(
    "hf.gte",
    rules=(
        TOKENS,
        Rule("embeddings.LayerNorm.{name}", "embedding_norm.{name}"),
        *joined("encoder.layer.{n}.attention.qkv_proj"),
        Rule("encoder.layer.{n}.attention.o_proj.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule("encoder.layer.{n}.{attn,mlp}_ln.{name}", "layers.{n}.{attention,ffn}_norm.{name}"),
        Rule(
            "encoder.layer.{n}.mlp.up_gate_proj.weight",
            "layers.{n}.ffn.{up,gate}_proj.weight",
            "(two rows) columns -> two rows columns",
        ),
        Rule("encoder.layer.{n}.mlp.down_proj.{name}", "layers.{n}.ffn.down_proj.{name}"),
        POOLER,
    ),
    spellings=(("gte.{rest}", "{rest}"), ("new.{rest}", "{rest}")),
    unused=HEADS,
    zero_biases=tuple(
        ZeroBias(
            f"layers.{{n}}.ffn.{name}_proj.bias",
            f"layers.{{n}}.ffn.{name}_proj.weight",
            "only the down projection has a bias",
        )
        for name in ("gate", "up")
    ),
)
