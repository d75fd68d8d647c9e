"""Readers of older mirror configurations, from before models were described layer by layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.describe import (
    Heads,
    latent_decoder,
    parallel_decoder,
    rotary_decoder,
)
from attention_bridge.pretrained.families.fields import OWN_ACTIVATIONS, Fields

UNKNOWN = "fields that are not known"


def read_rotary_decoder(fields: Fields) -> Part:
    """Read a `RotaryDecoderConfig`."""
    fields.only("class", "RotaryDecoderConfig")
    heads, num_layers = _heads(fields.part("heads")), fields.layers("num_layers")
    rope = _rope(fields.part("rope"), heads.head_dim)
    local = None if fields.raw("local_rope") is None else _rope(fields.part("local_rope"), heads.head_dim)
    return rotary_decoder(
        heads,
        vocab_size=fields.size("vocab_size"),
        num_layers=num_layers,
        ffn_dim=fields.size("ffn_dim"),
        rope=rope,
        activation=fields.word("activation", words=OWN_ACTIVATIONS, default="silu"),
        ffn_bias=fields.flag("ffn_bias", False),
        sandwich=fields.flag("sandwich", False),
        windows=_windows(fields, num_layers),
        local_rope=local,
        embed_scale=fields.number("embed_scale", default=1.0),
        logit_softcap=fields.number("logit_softcap", default=None),
        tied=fields.flag("tied", False),
    )


def read_parallel_decoder(fields: Fields) -> Part:
    """Read a `ParallelDecoderConfig`."""
    fields.only("class", "ParallelDecoderConfig")
    heads = _heads(fields.part("heads"))
    turned, base = fields.size("rotary_dim", default=None), fields.number("rope_base", default=10000.0)
    position = Part("ALiBi", {"num_heads": heads.num_heads})
    if turned is not None:
        sizes = {"head_dim": heads.head_dim, "rotary_dim": turned, "base": base}
        position = Part("RotaryEmbedding", sizes)
    parallel, shared = fields.flag("parallel", True), fields.flag("shared_norm", False)
    if shared and not parallel:
        raise CheckpointError(f"{fields.source} must have shared_norm false, or parallel true")
    return parallel_decoder(
        heads,
        vocab_size=fields.size("vocab_size"),
        num_layers=fields.layers("num_layers"),
        ffn_dim=fields.size("ffn_dim"),
        position=position,
        arrangement="parallel_shared_norm" if shared else "parallel" if parallel else "pre",
        activation=fields.word("activation", words=OWN_ACTIVATIONS, default="gelu"),
        ffn_bias=fields.flag("ffn_bias", True),
        norm_eps=fields.number("norm_eps", default=1e-5, zero=True),
        embedding_norm=fields.flag("embedding_norm", False),
        tied=fields.flag("tied", False),
    )


def read_latent_decoder(fields: Fields) -> Part:
    """Read a `LatentDecoderConfig`."""
    fields.only("class", "LatentDecoderConfig")
    heads = fields.part("heads")
    heads.only("class", "LatentHeadsConfig")
    embed_dim, turned = heads.size("embed_dim"), heads.size("rope_head_dim")
    mixer = {
        "num_heads": heads.size("num_heads"),
        "kv_lora_rank": heads.size("kv_lora_rank"),
        "q_lora_rank": heads.size("q_lora_rank", default=None),
        "nope_head_dim": heads.size("nope_head_dim"),
        "rope_head_dim": turned,
        "value_head_dim": heads.size("value_head_dim"),
        "position": _rope(fields.part("rope"), turned),
        "scale": heads.number("scale", default=None),
    }
    heads.refuse_unread(UNKNOWN)
    return latent_decoder(
        mixer,
        embed_dim=embed_dim,
        vocab_size=fields.size("vocab_size"),
        num_layers=fields.layers("num_layers"),
        ffn_dim=fields.size("ffn_dim"),
        experts=None if fields.raw("experts") is None else _experts(fields.part("experts")),
        num_dense_layers=fields.whole("num_dense_layers", default=0),
        norm_eps=fields.number("norm_eps", default=1e-6, zero=True),
        tied=fields.flag("tied", False),
    )


READERS: dict[str, Callable[[Fields], Part]] = {
    "RotaryDecoder": read_rotary_decoder,
    "ParallelDecoder": read_parallel_decoder,
    "LatentDecoder": read_latent_decoder,
}


def read_before(fields: Fields, name: str) -> Part:
    """Read the description of a model that had a class of its own."""
    spec = READERS[name](fields)
    fields.refuse_unread(UNKNOWN)
    return spec


def with_own_heads(fields: Fields) -> Fields:
    """The fields of a `RelativeEncoderDecoderConfig`, with a nested configuration of heads merged into them."""
    if "heads" not in fields.given:
        return fields
    heads = _heads(fields.part("heads"))
    if (heads.qkv_bias, heads.out_bias, heads.softcap, heads.qk_norm) != (False, False, None, False):
        raise CheckpointError(f"{fields.source} must have heads without biases, softcap and norms")
    if heads.num_kv_heads != heads.num_heads:
        raise CheckpointError(
            f"{fields.source} must have as many num_kv_heads as num_heads, "
            f"got {heads.num_kv_heads} and {heads.num_heads}"
        )
    sizes = {"embed_dim": heads.embed_dim, "num_heads": heads.num_heads, "head_dim": heads.head_dim}
    if heads.scale != 1.0:
        raise CheckpointError(f"{fields.source} must have heads with scale 1.0, got {heads.scale}")
    others = {name: value for name, value in fields.given.items() if name != "heads"}
    return Fields({**others, **sizes}, fields.source)


def _heads(fields: Fields) -> Heads:
    fields.only("class", "HeadsConfig")
    found = Heads(
        fields.size("embed_dim"),
        fields.size("num_heads"),
        fields.size("num_kv_heads"),
        fields.size("head_dim"),
        qkv_bias=fields.flag("qkv_bias", False),
        out_bias=fields.flag("out_bias", False),
        scale=fields.number("scale", default=None),
        softcap=fields.number("softcap", default=None),
        qk_norm=fields.flag("qk_norm", False),
        norm_eps=fields.number("norm_eps", default=1e-6, zero=True),
        unit_offset=fields.flag("unit_offset", False),
    )
    fields.refuse_unread(UNKNOWN)
    return found


def _rope(fields: Fields, head_dim: int) -> Part:
    fields.only("class", "RopeConfig")
    arguments: dict[str, Any] = {
        "head_dim": head_dim,
        "base": fields.number("base", default=10000.0),
        "amplitude": fields.number("amplitude", default=1.0),
        "interleaved": fields.flag("interleaved", False),
    }
    frequencies = fields.raw("frequencies")
    if frequencies is not None:
        if not isinstance(frequencies, list):
            raise CheckpointError(f"{fields.source} must have a list frequencies, got {frequencies!r}")
        each = [Fields({"frequencies": x}, fields.source).number("frequencies") for x in frequencies]
        arguments["frequencies"] = tuple(each)
    fields.refuse_unread(UNKNOWN)
    return Part("RotaryEmbedding", arguments)


def _experts(fields: Fields) -> Part:
    fields.only("class", "ExpertsConfig")
    ffn_dim, num_shared = fields.size("ffn_dim"), fields.whole("num_shared", default=1)
    routing = {
        "num_chosen": fields.size("num_chosen"),
        "num_groups": fields.size("num_groups", default=1),
        "num_chosen_groups": fields.size("num_chosen_groups", default=1),
        "normalised": fields.flag("normalised", True),
        "routed_scale": fields.number("routed_scale", default=1.0),
    }
    found = {"ffn_dim": ffn_dim, "num_experts": fields.size("num_experts")}
    fields.refuse_unread(UNKNOWN)
    shared = {"shared_dim": num_shared * ffn_dim} if num_shared else {}
    return Part("MixtureOfExperts", {**found, "routing": Part("SigmoidRouting", routing), **shared})


def _windows(fields: Fields, num_layers: int) -> tuple[int | None, ...]:
    given = fields.raw("windows", default=[])
    if not isinstance(given, list) or len(given) not in (0, num_layers):
        raise CheckpointError(f"{fields.source} must have windows for each of {num_layers} layers, or none")
    each = [Fields({"windows": x}, fields.source) for x in given]
    return tuple(x.size("windows", default=None) for x in each)
