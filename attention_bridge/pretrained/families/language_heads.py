"""Language modelling heads of one linear layer, which may repeat the token embedding."""

from __future__ import annotations

from attention_bridge.catalogue.part import Part
from attention_bridge.pretrained.families.fields import Fields
from attention_bridge.pretrained.families.heads import MASKED, OUTPUTS, Head
from attention_bridge.pretrained.families.tensors import Tensors
from attention_bridge.weights.layout import Tied
from attention_bridge.weights.rule import Rule


def linear_language_heads(
    layer: str, embedding: str, *, classes: tuple[str, ...] = ("ForMaskedLM",)
) -> tuple[Head, ...]:
    """Masked language modelling heads of a linear layer with and without a bias.

    Args:
        layer: name of the linear layer, such as `lm_head`.
        embedding: name of the weight of the token embedding, which a tied layer repeats.
        classes: ends of the names of the classes that write it.
    """
    weight, bias = Tied(f"{layer}.weight", embedding, "tied embeddings"), f"{layer}.bias"

    def part(fields: Fields, tensors: Tensors) -> Part:
        own = weight.name in tensors and not fields.flag("tie_word_embeddings", False)
        untied = own or tensors.differ(weight.name, weight.to) or any(name in tensors for name in OUTPUTS)
        biased = bias in tensors or "head.decoder_bias" in tensors
        return Part(
            "LinearLanguageHead",
            {**({"bias": True} if biased else {}), **({"tied": False} if untied else {})},
        )

    rule = Rule(bias, "head.decoder_bias")
    return (
        Head(MASKED, classes, (rule,), (bias,), part, decoder=weight),
        Head(MASKED, classes, (), (), part, absent=(bias,), decoder=weight),
    )
