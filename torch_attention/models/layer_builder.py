"""Build the layers of a model from their descriptions."""

from functools import partial
from typing import Any

from torch_attention.layers import constant_parameter
from torch_attention.models.arrangements import ARRANGEMENTS
from torch_attention.models.arrangements.layer import Layer
from torch_attention.models.description import LayerSpec, ModelSpec
from torch_attention.models.part_builder import build, build_laurel, build_mixer, build_on_grid


def build_layers(config: ModelSpec, factory: dict[str, Any]) -> list[Layer]:
    """Build the layers of a model.

    Raises:
        ValueError: an arrangement or a part is unknown or does not fit, or a layer's `kv_layer`, `token_input` or
            `updates` does not.
    """
    input_dim = None if config.layer_embedding is None else config.layer_embedding.arguments["dim"]
    built: list[Layer] = []
    for spec in config.layers:
        layer = build_layer(spec, config.embed_dim, factory, is_causal=config.is_causal, input_dim=input_dim)
        _add_updates(layer, spec, config, factory)
        _check_kv_layer(spec.kv_layer, layer, built)
        built.append(layer)
    return built


def build_layer(
    spec: LayerSpec, embed_dim: int, factory: dict[str, Any], *, is_causal: bool, input_dim: int | None = None
) -> Layer:
    """Build a layer from its description.

    Args:
        spec: the description.
        embed_dim: number of features per position.
        factory: arguments of `Factory`.
        is_causal: whether the mixer must be causal.
        input_dim: features of the tokens' vectors for the layer, which `token_input` reads; None without them.

    Raises:
        ValueError: an arrangement or a part is unknown or does not fit, or `token_input` has no vectors to read.
    """
    mixer = build_mixer(spec.mixer, embed_dim, factory, is_causal=is_causal)
    ffn = None if spec.ffn is None else build(spec.ffn, {"embed_dim": embed_dim}, factory)
    layer = _arranged(spec, mixer, ffn, embed_dim, factory)
    layer.kv_layer = spec.kv_layer
    if spec.token_input is not None:
        if input_dim is None:
            raise ValueError("token_input of a layer needs a layer_embedding of the model, got None")
        layer.token_input = build(spec.token_input, {"embed_dim": embed_dim, "input_dim": input_dim}, factory)
    return layer


def build_grid_layer(spec: LayerSpec, embed_dim: int, factory: dict[str, Any]) -> Layer:
    """Build a layer of a stage, whose mixer attends over a grid.

    Args:
        spec: description of the layer.
        embed_dim: number of features per position.
        factory: arguments of `Factory`.

    Raises:
        ValueError: an arrangement or a part is unknown or does not fit, or the layer has a `kv_layer` or `token_input`.
    """
    for name in ("kv_layer", "token_input"):
        if getattr(spec, name) is not None:
            raise ValueError(f"{name} must be None in a stage, got {getattr(spec, name)}")
    known = {"embed_dim": embed_dim}
    mixer, ffn = (
        None if part is None else build_on_grid(role, part, known, factory)
        for role, part in (("mixer", spec.mixer), ("ffn", spec.ffn))
    )
    return _arranged(spec, mixer, ffn, embed_dim, factory)


def _arranged(spec: LayerSpec, mixer: Any, ffn: Any, embed_dim: int, factory: dict[str, Any]) -> Layer:
    """The layer with its norms and the factor on its output."""
    if spec.arrangement not in ARRANGEMENTS:
        raise ValueError(f"arrangement must be one of {', '.join(ARRANGEMENTS)}, got {spec.arrangement!r}")
    norm = partial(build, spec.norm, {"dim": embed_dim}, factory)
    own: dict[str, Any] = {}
    if spec.output_norm is not None:
        own["output_norm"] = partial(build, spec.output_norm, {"dim": embed_dim}, factory)
    if spec.laurel is not None:
        own["laurel"] = partial(build_laurel, spec.laurel, embed_dim, factory)
    layer: Layer = ARRANGEMENTS[spec.arrangement](mixer, ffn, norm, spec.residual_scale, **own)
    if spec.output_scale:
        layer.output_scale = constant_parameter(1, value=1.0, **factory)
    return layer


def _add_updates(layer: Layer, spec: LayerSpec, config: ModelSpec, factory: dict[str, Any]) -> None:
    """Add the updates of the parts of the residual stream to a layer, if the stream has parts."""
    if (spec.updates is None) is not (config.streams is None):
        raise ValueError(
            "updates of a layer must be given for a model with streams alone, "
            f"got {spec.updates} and streams={config.streams}"
        )
    if spec.updates is not None and config.streams is not None:
        known = {"embed_dim": config.embed_dim, "num_streams": config.streams.arguments["num_streams"]}
        layer.updates = build(spec.updates, known, factory)


def _check_kv_layer(index: int | None, layer: Layer, built: list[Layer]) -> None:
    """Raise unless a mixer without keys and values has an earlier layer that can share its own."""
    needs = getattr(layer.attention, "shares_kv", False)
    if needs is not (index is not None):
        raise ValueError(
            f"kv_layer must be the index of an earlier layer for a mixer with shares_kv=True alone, got {index}"
        )
    if index is None:
        return
    if not 0 <= index < len(built):
        raise ValueError(f"kv_layer must be the index of an earlier layer, got {index} in layer {len(built)}")
    source = built[index].attention
    if (
        type(source) is not type(layer.attention)
        or source.shares_kv
        or source.head_dim != layer.attention.head_dim
    ):
        raise ValueError(
            f"kv_layer must be a layer of the same class and head_dim with keys and values of its own, got {index}"
        )
