"""`hf.opt`, `hf.xglm` and `hf.biogpt`: Hugging Face decoders with the names of fairseq.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/opt/modeling_opt.py
https://github.com/huggingface/transformers/blob/main/src/transformers/models/xglm/modeling_xglm.py
https://github.com/huggingface/transformers/blob/main/src/transformers/models/biogpt/modeling_biogpt.py
"""

from attention_bridge.weights.layout import Dropped, Layout
from attention_bridge.weights.layouts.hf_gpt2 import DECODER_HEADS
from attention_bridge.weights.rule import Rule


def _layout(name: str, path: str, norm: str, head: str) -> Layout:
    """The layout of a decoder at `path`, with these names of its final norm and its output head."""
    layer = path + "layers.{n}."
    parts = ("embed_tokens", "embed_positions", "layers", norm, "project_in", "project_out")
    paths = [path.partition(".")[2], ""] if path.count(".") == 2 else [""]
    return Layout(
        name,
        rules=(
            Rule(path + "embed_{tokens,positions}.weight", "{token,position}_embedding.weight"),
            Rule(path + "project_{in,out}.weight", "{embedding,output}_proj.weight"),
            Rule(layer + "self_attn_layer_norm.{name}", "layers.{n}.attention_norm.{name}"),
            Rule(layer + "self_attn.{q,k,v,out}_proj.{name}", "layers.{n}.attention.{q,k,v,out}_proj.{name}"),
            Rule(layer + "final_layer_norm.{name}", "layers.{n}.ffn_norm.{name}"),
            Rule(layer + "{fc1,fc2}.{name}", "layers.{n}.ffn.{up,down}_proj.{name}"),
            Rule(f"{path}{norm}.{{name}}", "final_norm.{name}"),
            Rule(f"{head}.weight", "head.weight"),
        ),
        spellings=tuple(
            (f"{start}{part}.{{rest}}", f"{path}{part}.{{rest}}") for start in paths for part in parts
        ),
        dropped=(
            Dropped(f"{path}embed_positions.weights", "the sinusoidal positions, which are recomputed"),
        ),
        unused=DECODER_HEADS,
    )


HF_OPT = _layout("hf.opt", "model.decoder.", "final_layer_norm", "lm_head")
HF_XGLM = _layout("hf.xglm", "model.", "layer_norm", "lm_head")
HF_BIOGPT = _layout("hf.biogpt", "biogpt.", "layer_norm", "output_projection")
