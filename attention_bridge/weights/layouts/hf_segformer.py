"""`hf.segformer`: Hugging Face `SegformerModel` and `SegformerForImageClassification`.

The names are those on disk or in memory. In the patterns, `{n}` is a stage, `{name}` a layer of it and `{rest}` a
parameter.

https://github.com/huggingface/transformers/blob/main/src/transformers/models/segformer/modeling_segformer.py
"""

from attention_bridge.weights.layout import Layout, Unused
from attention_bridge.weights.layouts.hf_swin import OURS
from attention_bridge.weights.rule import Rule

LAYER, ATTENTION = "encoder.block.{n}.{name}.", OURS + "attention."
# Names of a layer's modules in memory and on disk.
MODULES = {
    "layernorm_before": "layer_norm_1",
    "layernorm_after": "layer_norm_2",
    "attention.q_proj": "attention.self.query",
    "attention.k_proj": "attention.self.key",
    "attention.v_proj": "attention.self.value",
    "attention.o_proj": "attention.output.dense",
    "attention.sequence_reduction.sequence_reduction": "attention.self.sr",
    "attention.sequence_reduction.layer_norm": "attention.self.layer_norm",
    "mlp.fc1": "mlp.dense1",
    "mlp.fc2": "mlp.dense2",
    "mlp.dwconv": "mlp.dwconv",
}

HF_SEGFORMER = Layout(
    "hf.segformer",
    rules=(
        Rule(
            "encoder.patch_embeddings.{n}.{proj,layer_norm}.{rest}",
            "stages.{n}.embedding.{patch_proj,norm}.{rest}",
        ),
        Rule(LAYER + "layer_norm_{1,2}.{rest}", OURS + "{attention,ffn}_norm.{rest}"),
        Rule(LAYER + "attention.self.{query,key,value}.{rest}", ATTENTION + "{q,k,v}_proj.{rest}"),
        Rule(LAYER + "attention.self.{sr,layer_norm}.{rest}", ATTENTION + "reduction_{proj,norm}.{rest}"),
        Rule(LAYER + "attention.output.dense.{rest}", ATTENTION + "out_proj.{rest}"),
        Rule(LAYER + "mlp.dense{1,2}.{rest}", OURS + "ffn.{up,down}_proj.{rest}"),
        Rule(LAYER + "mlp.dwconv.dwconv.{rest}", OURS + "ffn.conv.{rest}"),
        Rule("encoder.layer_norm.{n}.{rest}", "stages.{n}.norm.{rest}"),
    ),
    unused=tuple(
        Unused(f"{name}.{{rest}}", "a task head, not part of the encoder")
        for name in ("classifier", "decode_head")
    ),
    spellings=(
        ("segformer.{rest}", "{rest}"),
        ("stages.{n}.patch_embeddings.{rest}", "encoder.patch_embeddings.{n}.{rest}"),
        ("stages.{n}.layer_norm.{rest}", "encoder.layer_norm.{n}.{rest}"),
        *(
            (f"stages.{{n}}.blocks.{{name}}.{theirs}.{{rest}}", f"{LAYER}{ours}.{{rest}}")
            for theirs, ours in MODULES.items()
        ),
    ),
)
