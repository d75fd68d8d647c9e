"""Reader of timm's Vision Transformers, whose `config.json` names an architecture."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.describe import vision_layer
from attention_bridge.pretrained.families.family import Family, Reading, model
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import IMAGES, Head, distilled_head, image_head
from attention_bridge.pretrained.families.model_types import TIMM
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.pretrained.families.timm_architectures import arguments_of
from attention_bridge.pretrained.families.timm_parts import (
    ending_of,
    grid_of,
    num_prefix,
    sizes_of,
    tokens_of,
)
from attention_bridge.weights.layout import Layout, ZeroBias
from attention_bridge.weights.layouts.hf_vit import without_biases
from attention_bridge.weights.layouts.timm_vit import (
    ATTENTION_POOLING,
    TIMM_BEIT,
    TIMM_DEIT,
    TIMM_EVA,
    TIMM_EVA_GLU,
    TIMM_VIT,
    TIMM_VIT_GLU,
)
from attention_bridge.weights.rule import Rule

# Arguments that matter in training alone, or for images of other sizes.
TRAINING = (
    "drop_rate", "pos_drop_rate", "patch_drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate", "fix_init",
    "weight_init", "head_init_scale", "dynamic_img_size",
)  # fmt: skip
# Fields about the file, its classes and the preparation of images.
DESCRIBING = (
    "num_classes", "num_features", "global_pool", "label_names", "label_descriptions", "labels", "mean", "std",
    "interpolation", "crop_pct", "crop_mode", "test_input_size", "test_crop_pct", "min_input_size", "pool_size",
    "first_conv", "classifier", "license", "url", "file", "tag", "hf_hub_id", "custom_load", "origin_url", "paper_name",
    "paper_ids", "notes", "source",
)  # fmt: skip


def read_timm(fields: Fields, tensors: Tensors) -> Reading:
    """Read the configuration of an architecture of timm; its tensors show whether there is a classifier."""
    arguments = arguments_of(fields)
    reading = READERS[arguments.raw("class")](arguments)
    arguments.raw(*TRAINING, "num_classes")
    arguments.finish()
    fields.raw(*DESCRIBING)
    return reading


def _vit(arguments: Fields) -> Reading:
    """`VisionTransformer`: learned positions; ViT, DeiT III, DINOv2, CLIP, SigLIP."""
    for name in ("qk_norm", "scale_attn_norm", "scale_mlp_norm", "dynamic_img_pad"):
        arguments.only(name, False)
    for name in ("attn_layer", "block_fn", "embed_norm_layer", "embed_layer"):
        arguments.only(name, None)
    arguments.only("proj_bias", True)
    gated = arguments.word("mlp_layer", words={"Mlp": False, "SwiGLUPacked": True}, default=False)
    sizes = sizes_of(arguments)
    if gated:  # its first layer has both inputs
        arguments.divides("mlp_ratio times embed_dim", sizes["ffn_dim"], "2", 2)
        sizes["ffn_dim"] //= 2
    scaled = arguments.number("init_values", default=0.0, zero=True) > 0
    layer = {"layer": vision_layer(sizes, gated=gated, scaled=scaled)} if gated or scaled else {}
    layout = TIMM_VIT_GLU if gated else TIMM_VIT
    layout = layout if arguments.flag("qkv_bias", True) else without_biases(layout, "qkv")
    return _model(
        arguments,
        layout,
        **sizes,
        **tokens_of(arguments, "reg_tokens"),
        **layer,
        positions=arguments.word("pos_embed", words={"learn": True, "": False, "none": False}, default=True),
        embedding_norm=arguments.flag("pre_norm", False),
    )


def _deit(arguments: Fields) -> Reading:
    """`VisionTransformerDistilled`: a distillation token follows the class token."""
    required = {"global_pool": "token", "no_embed_class": False, "reg_tokens": 0, "class_token": True}
    for name, value in {**required, "init_values": None, "mlp_layer": None, "fc_norm": None}.items():
        arguments.only(name, value)
    read = _vit(arguments)
    sizes = read.model.arguments["config"].arguments
    changed = {**sizes, "num_registers": 1, "register_positions": True}
    return Reading(
        model("VisionTransformer", **changed), replace(TIMM_DEIT, zero_biases=read.layout.zero_biases)
    )


def _beit(arguments: Fields) -> Reading:
    """`Beit`: relative positions, of each layer or shared."""
    arguments.only("swiglu_mlp", False)
    arguments.only("scale_mlp", False)
    sizes = sizes_of(arguments)
    own, shared = arguments.flag("use_rel_pos_bias", False), arguments.flag("use_shared_rel_pos_bias", False)
    if own and shared:
        raise CheckpointError(
            f"{arguments.source} must have use_rel_pos_bias or use_shared_rel_pos_bias, got both"
        )
    bias = Part("PatchBias", {"num_heads": sizes["num_heads"], "grid_size": grid_of(sizes)})
    scaled = arguments.number("init_values", default=0.0, zero=True) > 0
    return _model(
        arguments,
        _without_biases(arguments, TIMM_BEIT),
        **sizes,
        positions=arguments.flag("use_abs_pos_emb", True),
        position=bias if shared else None,
        layer=vision_layer(sizes, scaled=scaled, position=bias if own else None, shared_position=shared),
    )


def _eva(arguments: Fields) -> Reading:
    """`Eva`: learned positions, or the rotary positions of DINOv3."""
    for name in ("scale_mlp", "scale_attn_inner", "use_post_norm", "dynamic_img_pad"):
        arguments.only(name, False)
    for name in ("attn_pool_num_heads", "attn_pool_mlp_ratio"):
        arguments.only(name, None)
    arguments.only("attn_type", "eva")
    arguments.only("qkv_fused", True)
    gated = arguments.flag("swiglu_mlp", False)
    sizes = sizes_of(arguments, arguments.size("swiglu_align_to") if gated else 1)
    if gated:
        sizes["activation"] = "silu"
    return _model(
        arguments,
        _without_biases(arguments, TIMM_EVA_GLU if gated else TIMM_EVA),
        **sizes,
        **tokens_of(arguments, "num_reg_tokens"),
        positions=arguments.flag("use_abs_pos_emb", True),
        embedding_norm=arguments.flag("use_pre_transformer_norm", False),
        layer=vision_layer(
            sizes,
            gated=gated,
            scaled=arguments.raw("init_values") is not None,
            position=_rope(arguments, sizes["embed_dim"] // sizes["num_heads"], grid_of(sizes)),
        ),
    )


def _rope(arguments: Fields, head_dim: int, grid_size: tuple[int, int]) -> Part | None:
    """The rotary positions of patches; None for none."""
    arguments.raw("rope_grid_offset", "ref_feat_shape", "swiglu_align_to")  # of other kinds
    if not arguments.flag("use_rot_pos_emb", False):
        return None
    arguments.only("rope_type", "dinov3")
    arguments.only("rope_rotate_half", True)
    arguments.only("rope_grid_indexing", "ij")
    arguments.divides("embed_dim / num_heads", head_dim, "4", 4)
    base = arguments.number("rope_temperature", default=10000.0)
    sizes = {"head_dim": head_dim, "grid_size": grid_size, "num_prefix": num_prefix(arguments), "base": base}
    return Part("PatchRotaryEmbedding", sizes)


def _model(arguments: Fields, layout: Layout, **described: Any) -> Reading:
    """The model of a description; the patches have no bias before a norm."""
    if described.get("embedding_norm"):
        bias = ZeroBias("patches.patch_proj.bias", "patches.patch_proj.weight", "patches have no bias")
        layout = replace(layout, zero_biases=(*layout.zero_biases, bias))
    return Reading(model("VisionTransformer", **described, **ending_of(arguments)), layout)


def _without_biases(arguments: Fields, layout: Layout) -> Layout:
    """The layout, without biases of queries and values if there are none."""
    return layout if arguments.flag("qkv_bias", True) else without_biases(layout, "qv")


def _pooling(fields: Fields) -> Part | None:
    pooling: Part | None = ending_of(arguments_of(fields))["pooling"]
    return pooling


def _behind_attention_pooling() -> Head:
    """A classifier of images behind attention pooling."""
    plain = image_head("head", _pooling)
    pools = tuple(Rule(rule.theirs, f"head.{rule.hub}", rule.pattern) for rule in ATTENTION_POOLING)
    layers = ("q", "kv", "proj", "norm", "mlp.fc1", "mlp.fc2")
    names = tuple(f"attn_pool.{layer}.{leaf}" for layer in layers for leaf in ("weight", "bias"))
    tensors = ("attn_pool.latent", *names, *plain.tensors)
    return Head(IMAGES, plain.classes, (*pools, *plain.rules), tensors, plain.part)


READERS = {"VisionTransformer": _vit, "VisionTransformerDistilled": _deit, "Beit": _beit, "Eva": _eva}
HEADS = (
    distilled_head("head", "head_dist"),
    _behind_attention_pooling(),
    image_head("head", _pooling, norm="fc_norm"),
    image_head("head", _pooling),
)

FAMILIES = (Family(TIMM, (TIMM,), read_timm, HEADS),)
