"""Reader of Ministral 3 (Mistral AI 2025), whose queries have a temperature that depends on the position."""

from __future__ import annotations

from attention_bridge.pretrained.families.decoder_fields import grouped_heads
from attention_bridge.pretrained.families.decoder_reading import decoder, gated_ffn
from attention_bridge.pretrained.families.describe import Heads, layer_spec
from attention_bridge.pretrained.families.family import Family, Reading
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import decoder_heads
from attention_bridge.pretrained.families.rope import ORIGINAL, parameters, rope, with_default
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layouts.hf_llama import HF_LLAMA

STRENGTH = "llama_4_scaling_beta"
DEFAULT = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    ORIGINAL: 16_384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    STRENGTH: 0.1,
}
WITHOUT_LENGTH = (None, "default", "linear")  # scalings that do not use the original length


def read_ministral3(fields: Fields, tensors: Tensors) -> Reading:
    """Read a Ministral 3 configuration: the query at position p is multiplied by 1 + a log(1 + floor(p / n))."""
    fields.raw("layer_types")  # all layers have the window, if there is one
    given = parameters(with_default(fields, DEFAULT))
    strength, length = given.number(STRENGTH, zero=True), given.size(ORIGINAL)
    left = {STRENGTH, "max_position_embeddings"}
    left |= {ORIGINAL} if given.raw("rope_type", "type") in WITHOUT_LENGTH else set()
    kept = {name: x for name, x in given.given.items() if name not in left}
    around = {"rope_parameters": kept, "max_position_embeddings": fields.raw("max_position_embeddings")}
    heads = Heads(fields.size("hidden_size"), **grouped_heads(fields), norm_eps=fields.number("rms_norm_eps"))
    position = rope(Fields(around, fields.source), heads.head_dim, temperature=(strength, float(length), 0.0))
    mixer = heads.mixer(position, fields.size("sliding_window", default=None))
    layer = layer_spec(mixer, gated_ffn(fields), "pre", heads.norm())
    return decoder(fields, [layer] * fields.layers("num_hidden_layers"), HF_LLAMA, norm=heads.norm())


FAMILIES = (Family("hf.llama", ("ministral3",), read_ministral3, decoder_heads("score")),)
