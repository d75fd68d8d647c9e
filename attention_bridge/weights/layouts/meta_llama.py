"""`meta.llama`: the checkpoints that Meta published, `consolidated.00.pth`; rotary pairs are 2i and 2i + 1.

The hub has them half a head apart, as Hugging Face has: `axes={"pair": head_dim // 2}` says how many pairs a head has.

https://github.com/meta-llama/llama-models
"""

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.rule import Rule

META_LLAMA = Layout(
    "meta.llama",
    rules=(
        Rule("tok_embeddings.weight", "token_embedding.weight"),
        Rule("layers.{n}.attention_norm.weight", "layers.{n}.attention_norm.weight"),
        Rule(  # `heads` is found from the shape: keys may have fewer than queries
            "layers.{n}.attention.w{q,k}.weight",
            "layers.{n}.attention.{q,k}_proj.weight",
            "(heads pair two) e -> (heads two pair) e",
        ),
        Rule("layers.{n}.attention.w{v,o}.weight", "layers.{n}.attention.{v,out}_proj.weight"),
        Rule("layers.{n}.ffn_norm.weight", "layers.{n}.ffn_norm.weight"),
        Rule("layers.{n}.feed_forward.w{1,2,3}.weight", "layers.{n}.ffn.{gate,down,up}_proj.weight"),
        Rule("norm.weight", "final_norm.weight"),
        Rule("output.weight", "head.weight"),
    ),
    dropped=(Dropped("rope.freqs", "the frequencies of the positions, made anew"),),
)
