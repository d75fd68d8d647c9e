"""`gguf.llama` and `gguf.qwen`: tensor names of llama.cpp's GGUF files, for Llama and Mistral, and for Qwen 2 and 3.

`gguf.llama` pairs features 2i and 2i + 1 of queries and keys; the canonical layout pairs i with i + head_dim / 2, as
`gguf.qwen` does. Conversion to `gguf.llama` needs `axes={"pair": head_dim // 2}`, the number of pairs per head.

https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/constants.py
"""

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.rule import Rule

LAYER, OURS = "blk.{n}.", "layers.{n}."

RULES = (
    Rule("token_embd.weight", "token_embedding.weight"),
    Rule(LAYER + "{attn,ffn}_norm.weight", OURS + "{attention,ffn}_norm.weight"),
    Rule(LAYER + "attn_{v,output}.weight", OURS + "attention.{v,out}_proj.weight"),
    Rule(LAYER + "attn_{v,output}.bias", OURS + "attention.{v,out}_proj.bias"),
    Rule(LAYER + "ffn_{gate,up,down}.weight", OURS + "ffn.{gate,up,down}_proj.weight"),
    Rule(LAYER + "ffn_{gate,up,down}.bias", OURS + "ffn.{gate,up,down}_proj.bias"),
    Rule("output_norm.weight", "final_norm.weight"),
    Rule("output.weight", "head.weight"),
)

GGUF_LLAMA = Layout(
    "gguf.llama",
    rules=(
        Rule(  # `heads` follows from the shape: there may be fewer key heads than query heads
            LAYER + "attn_{q,k}.weight",
            OURS + "attention.{q,k}_proj.weight",
            "(heads pair two) e -> (heads two pair) e",
        ),
        Rule(
            LAYER + "attn_{q,k}.bias",
            OURS + "attention.{q,k}_proj.bias",
            "(heads pair two) -> (heads two pair)",
        ),
        *RULES,
    ),
    dropped=(
        Dropped("rope_freqs.weight", "divisors of the rotary frequencies, which belong to the configuration"),
        Dropped(LAYER + "attn_rot_embd.weight", "the rotary frequencies, which are recomputed"),
    ),
)

GGUF_QWEN = Layout(
    "gguf.qwen",
    rules=(
        Rule(LAYER + "attn_{q,k}.weight", OURS + "attention.{q,k}_proj.weight"),
        Rule(LAYER + "attn_{q,k}.bias", OURS + "attention.{q,k}_proj.bias"),
        Rule(LAYER + "attn_{q,k}_norm.weight", OURS + "attention.{q,k}_norm.weight"),
        *RULES,
    ),
)
