"""Parts that the classes of timm's Vision Transformers share, from the arguments of an architecture."""

from __future__ import annotations

from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.readers.images import image_pair

ACTIVATIONS = {
    "GELU": "gelu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "SiLU": "silu",
    "silu": "silu",
}
NORMS = ("LayerNorm", "layernorm")
POOLS = ("token", "avg", "map")


def sizes_of(arguments: Fields, align: int = 1) -> dict[str, Any]:
    """The sizes of an image encoder; hidden features are rounded up to a multiple of `align`."""
    dim, heads = arguments.dim_and_heads(("embed_dim",), ("num_heads",), defaults=(768, 12))
    ffn_dim = int(dim * arguments.number("mlp_ratio", default=4.0))
    image, patch = image_pair(arguments, "img_size", 224), image_pair(arguments, "patch_size", 16)
    if image[0] < patch[0] or image[1] < patch[1]:
        raise CheckpointError(
            f"{arguments.source} must have an img_size that holds a patch, got {image} and {patch}"
        )
    return {
        "image_size": image,
        "patch_size": patch,
        "in_channels": arguments.size("in_chans", default=3),
        "embed_dim": dim,
        "num_heads": heads,
        "num_layers": arguments.layers("depth", default=12),
        "ffn_dim": ffn_dim + -ffn_dim % align,
        "activation": arguments.word("act_layer", words=ACTIVATIONS, default="gelu"),
        "norm_eps": _norm_eps(arguments),
    }


def grid_of(sizes: dict[str, Any]) -> tuple[int, int]:
    """Rows and columns of patches."""
    image, patch = sizes["image_size"], sizes["patch_size"]
    return image[0] // patch[0], image[1] // patch[1]


def tokens_of(arguments: Fields, registers: str) -> dict[str, Any]:
    """Class token and registers, and whether they have positions; `registers` is the name of their number."""
    count = arguments.whole(registers, default=0)
    is_placed = not arguments.flag("no_embed_class", False)
    has_class = arguments.flag("class_token", True)
    if count and not has_class:
        raise CheckpointError(
            f"{arguments.source} must have {registers} 0 without a class_token, got {count}"
        )
    return {
        "class_token": has_class,
        "num_registers": count,
        "register_positions": is_placed and count > 0,
        "class_position": is_placed,
    }


def num_prefix(arguments: Fields) -> int:
    """Number of tokens in front of the patches."""
    if arguments.raw("class") == "VisionTransformerDistilled":
        return 2
    return int(arguments.flag("class_token", True)) + arguments.whole(
        "reg_tokens", "num_reg_tokens", default=0
    )


def ending_of(arguments: Fields) -> dict[str, Any]:
    """Whether the output is normalised, and how it is pooled; a pooling of None takes the class token."""
    kind = arguments.raw("class")
    default = "token" if kind.startswith("VisionTransformer") else "avg"
    pool = arguments.word("global_pool", words={name: name for name in POOLS}, default=default)
    arguments.only("pool_include_prefix", False)
    is_normed = arguments.flag("final_norm", True)
    after = is_normed and arguments.flag("use_fc_norm" if kind == "Eva" else "fc_norm", pool == "avg")
    before = arguments.flag("use_post_transformer_norm", is_normed and not after)
    return {"pooling": _pooling(arguments, pool, after), "final_norm": before}


def _pooling(arguments: Fields, pool: str, is_normed: bool) -> Part | None:
    """The pooling `pool`, perhaps with a norm; None for the class token."""
    sizes, prefix = sizes_of(arguments), num_prefix(arguments)
    if pool == "map":
        if prefix or is_normed:
            raise CheckpointError(
                f"{arguments.source} must have a global_pool of token or avg with a class token, registers or a norm "
                "after the pooling, got map"
            )
        used = {name: sizes[name] for name in ("num_heads", "ffn_dim", "activation", "norm_eps")}
        return Part("LearnedPooling", used)
    pooling = Part("MeanPooling", {"skip": prefix}) if pool == "avg" else None
    if is_normed:
        pooling = pooling or Part("FirstToken")
        return Part("NormedPooling", {"pooling": pooling, "norm_eps": sizes["norm_eps"]})
    return pooling


def _norm_eps(arguments: Fields) -> float:
    """The epsilon of all norms, which must be layer norms: a class, or a class with its epsilon."""
    given = arguments.raw("norm_layer", default="LayerNorm")
    norm = Fields(given if isinstance(given, dict) else {"name": given}, f"norm_layer of {arguments.source}")
    norm.word("name", words=dict.fromkeys(NORMS, True))
    eps = norm.number("eps", default=1e-6)
    norm.finish()
    return eps
