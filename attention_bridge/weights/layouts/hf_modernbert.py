"""`hf.modernbert`: Hugging Face `ModernBertModel`, with one tensor for queries, keys and values, one for gate and up.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/modernbert/modeling_modernbert.py
"""

from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.rule import Rule

HF_MODERNBERT = Layout(
    "hf.modernbert",
    rules=(
        Rule("embeddings.tok_embeddings.weight", "token_embedding.weight"),
        Rule("embeddings.norm.{name}", "embedding_norm.{name}"),
        Rule(
            "layers.{n}.attn.Wqkv.weight",
            "layers.{n}.attention.{q,k,v}_proj.weight",
            "(three rows) columns -> three rows columns",
        ),
        Rule(
            "layers.{n}.attn.Wqkv.bias",
            "layers.{n}.attention.{q,k,v}_proj.bias",
            "(three rows) -> three rows",
        ),
        Rule("layers.{n}.attn.Wo.{name}", "layers.{n}.attention.out_proj.{name}"),
        Rule("layers.{n}.attn_norm.{name}", "layers.{n}.attention_norm.{name}"),
        Rule("layers.{n}.mlp_norm.{name}", "layers.{n}.ffn_norm.{name}"),
        Rule(
            "layers.{n}.mlp.Wi.weight",
            "layers.{n}.ffn.{gate,up}_proj.weight",
            "(two rows) columns -> two rows columns",
        ),
        Rule("layers.{n}.mlp.Wi.bias", "layers.{n}.ffn.{gate,up}_proj.bias", "(two rows) -> two rows"),
        Rule("layers.{n}.mlp.Wo.{name}", "layers.{n}.ffn.down_proj.{name}"),
        Rule("final_norm.{name}", "final_norm.{name}"),
    ),
    spellings=(("model.{rest}", "{rest}"),),
    unused=tuple(
        Unused(name, "a task head, not part of the encoder")
        for name in ("head.{rest}", "decoder.{rest}", "classifier.{rest}")
    ),
)
