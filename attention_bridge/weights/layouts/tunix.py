"""Layouts of decoders in Tunix and Bonsai, by the paths of their NNX state, joined by dots.

| layout         | model                                      |
|----------------|--------------------------------------------|
| `tunix.llama`  | Tunix's Llama 3, Qwen 2 and dense Qwen 3   |
| `bonsai.qwen3` | Bonsai's Qwen 3                            |

The values equal Hugging Face's: rotary pairs are i and i + head_dim / 2, and no factor is folded into a tensor.
Conversion to these layouts needs `axes={"d": head_dim}`.

https://github.com/google/tunix/blob/main/tunix/models/qwen3/params.py
https://github.com/jax-ml/bonsai/blob/main/bonsai/models/qwen3/params.py
"""

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.rule import Rule

LAYER = "layers.{n}."


def decoder(name: str, embedding: str, projection: str, norm: str) -> Layout:
    """The layout of a library.

    Args:
        name: name of the layout.
        embedding, projection, norm: names of the parameter of an embedding, of a projection and of a norm.
    """
    attention, ours = f"{LAYER}attn.", f"{LAYER}attention."
    return Layout(
        name,
        rules=(
            Rule(f"embedder.{embedding}", "token_embedding.weight"),
            Rule(f"{attention}q_proj.{projection}", f"{ours}q_proj.weight", "i h d -> (h d) i"),
            Rule(f"{attention}{{k,v}}_proj.{projection}", f"{ours}{{k,v}}_proj.weight", "i g d -> (g d) i"),
            Rule(f"{attention}o_proj.{projection}", f"{ours}out_proj.weight", "h d o -> o (h d)"),
            Rule(f"{attention}{{q,k,v}}_bias", f"{ours}{{q,k,v}}_proj.bias"),
            Rule(f"{attention}{{q,k}}_norm.{norm}", f"{ours}{{q,k}}_norm.weight"),
            Rule(
                f"{LAYER}mlp.{{gate,up,down}}_proj.kernel",
                f"{LAYER}ffn.{{gate,up,down}}_proj.weight",
                "i o -> o i",
            ),
            Rule(
                f"{LAYER}{{input,post_attention}}_layernorm.{norm}", f"{LAYER}{{attention,ffn}}_norm.weight"
            ),
            Rule(f"final_norm.{norm}", "final_norm.weight"),
            Rule(f"lm_head.{projection}", "head.weight", "i o -> o i"),
        ),
        spellings=(("{rest}.value", "{rest}"),),
        dropped=(Dropped("{path}rngs.{rest}", "the state of a random generator"),),
    )


TUNIX_LLAMA = decoder("tunix.llama", "input_embedding", "w", "w")
BONSAI_QWEN3 = decoder("bonsai.qwen3", "embedding", "kernel", "scale")
