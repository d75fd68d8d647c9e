"""`meta.llama`: the checkpoints that Meta published, `consolidated.00.pth`; rotary pairs are 2i and 2i + 1.

The canonical layout pairs i with i + head_dim / 2, as Hugging Face does; conversion needs
`axes={"pair": head_dim // 2}`, the number of pairs per head.

https://github.com/meta-llama/llama-models
"""

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.rule import Rule

META_LLAMA = Layout(
    "meta.llama",
    rules=(
        Rule("tok_embeddings.weight", "token_embedding.weight"),
        Rule("layers.{n}.attention_norm.weight", "layers.{n}.attention_norm.weight"),
        Rule(  # `heads` follows from the shape: there may be fewer key heads than query heads
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
    dropped=(Dropped("rope.freqs", "the rotary frequencies, which are recomputed"),),
)
