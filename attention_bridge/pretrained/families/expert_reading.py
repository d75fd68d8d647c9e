"""Mixtures of experts, as the readers of decoders put them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from attention_bridge.catalogue.part import Part
from attention_bridge.errors import CheckpointError
from attention_bridge.pretrained.families.fields import ACTIVATIONS, Fields
from attention_bridge.pretrained.families.shown import shown
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Dropped, Layout

NAMES = ("num_local_experts", "num_experts")  # the reference takes either name
CHOSEN = "num_experts_per_tok"


def mixture(
    fields: Fields,
    routing: str,
    *,
    ffn_dim: str = "moe_intermediate_size",
    experts: tuple[str, ...] = NAMES,
    chosen: str = CHOSEN,
    activation: bool = True,
    grouped: bool = False,
    rule: Mapping[str, Any] | None = None,
    **others: Any,
) -> Part:
    """The mixture of experts of a configuration.

    Args:
        fields: the configuration.
        routing: class of the routing, such as `SoftmaxRouting`.
        ffn_dim: field with the hidden features of each expert.
        experts: names of the field with the number of experts.
        chosen: field with the number of experts per position.
        activation: whether `hidden_act` is the experts' activation; False if the mixture has its own.
        grouped: whether experts are chosen from the best `topk_group` of `n_group` groups.
        rule: further arguments of the routing.
        others: further arguments of `MixtureOfExperts`.

    Raises:
        CheckpointError: two names give different numbers of experts, or more experts are chosen than there are, in
            the chosen groups.
    """
    values = [fields.given[name] for name in experts if name in fields.given]
    if any(value != values[0] for value in values):
        raise CheckpointError(f"{fields.source} must have one number of experts, got {shown(values)}")
    count, each = fields.size(*experts), fields.size(chosen)
    if each > count:
        raise CheckpointError(
            f"{fields.source} must have a {chosen} of at most {experts[0]}, got {each} and {count}"
        )
    fields.raw("router_jitter_noise")  # in training; SparseMixer, which takes it as a number, has read it
    rule = {**(rule or {}), **(_groups(fields, experts[0], count, each) if grouped else {})}
    if activation:
        others["activation"] = fields.word("hidden_act", words=ACTIVATIONS)
    return Part(
        "MixtureOfExperts",
        {
            "ffn_dim": fields.size(ffn_dim),
            "num_experts": count,
            "routing": Part(routing, {"num_chosen": each, **rule}),
            **others,
        },
    )


def _groups(fields: Fields, name: str, count: int, chosen: int) -> dict[str, int]:
    """The groups of `count` experts, as arguments of a routing that chooses so many of them."""
    groups, best = fields.size("n_group"), fields.size("topk_group")
    fields.divides(name, count, "n_group", groups)
    if best > groups:
        raise CheckpointError(
            f"{fields.source} must have a topk_group of at most n_group, got {best} and {groups}"
        )
    if chosen > best * (count // groups):
        raise CheckpointError(
            f"{fields.source} must have a {CHOSEN} of at most topk_group * {name} / n_group, "
            f"got {chosen} and {best * (count // groups)}"
        )
    return {"num_groups": groups, "num_chosen_groups": best}


def without_prediction(layout: Layout, tensors: Tensors, num_layers: int) -> Layout:
    """The layout without the layers for multi-token prediction, which follow the model's layers in some files."""
    start = f"model.layers.{num_layers}."
    if not tensors.starts_with(start):
        return layout
    note = Dropped(f"{start}{{rest}}", "a layer for multi-token prediction")
    return replace(layout, dropped=(*layout.dropped, note))


def sparse_layers(fields: Fields, num_layers: int) -> tuple[bool, ...]:
    """Whether each layer has a mixture of experts, from `decoder_sparse_step` and `mlp_only_layers`."""
    step, dense = fields.size("decoder_sparse_step"), fields.raw("mlp_only_layers", default=[])
    if not isinstance(dense, list) or any(type(each) is not int for each in dense):
        raise CheckpointError(
            f"{fields.source} must have a list of whole numbers mlp_only_layers, got {shown(dense)}"
        )
    return tuple(n not in dense and (n + 1) % step == 0 for n in range(num_layers))


def stored_layout(tensors: Tensors, separate: Layout, stacked: Layout) -> Layout:
    """The layout of the checkpoint: one tensor for each expert, or all experts of a layer stacked in one tensor."""
    return stacked if tensors.ends_with("experts.gate_up_proj") else separate
