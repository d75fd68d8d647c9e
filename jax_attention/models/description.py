"""Language models as data: the parts of each layer.

    ffn = Part("GatedFeedForward", {"ffn_dim": 96})
    memory = LayerSpec(Part("GatedDeltaNet", {"num_heads": 2, "head_dim": 16}), ffn)
    attention = LayerSpec(Part("GroupedQueryAttention", {"num_heads": 4, "num_kv_heads": 2}), ffn)
    model = LanguageModel(ModelSpec(vocab_size=1000, embed_dim=32, layers=(memory, memory, memory, attention)))

A description holds names, numbers and strings, never arrays or code. It is the same in both mirrors, can be compared
and can be stored as JSON: `ModelSpec.from_dict(spec.to_dict()) == spec`.
"""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import numpy as np

from jax_attention.arguments import checked
from jax_attention.checks import check_at_least
from jax_attention.models.special_tokens import SpecialTokens
from jax_attention.ranges import article, refuse, shown


@checked
@dataclass(frozen=True)
class Part:
    """The name of a class or function of this package, with its arguments.

    The model supplies `embed_dim` and `is_causal` to a mixer, `embed_dim` to a feed-forward network, `dim` to a norm,
    and the device, dtype or rngs of the parameters.

    Attributes:
        name: name of a class of this package or a function of its `layers`, such as `"GatedDeltaNet"` or `"rms_norm"`.
        arguments: constructor arguments by name: numbers, strings, sequences of these, or nested parts.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.arguments, Mapping) or not all(isinstance(x, str) for x in self.arguments):
            raise TypeError(f"arguments must be a mapping from names, got {self.arguments!r}")
        kept = {name: _kept(f"{name} of {self.name}", x) for name, x in self.arguments.items()}
        object.__setattr__(self, "arguments", kept)

    def __hash__(self) -> int:
        return hash((self.name, frozenset(self.arguments.items())))

    def to_dict(self) -> dict[str, Any]:
        """Convert to dictionaries, lists, numbers and strings, as JSON stores them."""
        return {"name": self.name, "arguments": {name: plain(x) for name, x in self.arguments.items()}}


@checked
@dataclass(frozen=True)
class LayerSpec:
    """Description of one layer of a model.

    Attributes:
        mixer: token mixer: any causal attention or recurrent class of the catalogue; None for a layer of only a
            feed-forward network, as in Nemotron-H.
        ffn: `FeedForward`, `GatedFeedForward`, `MixtureOfExperts` or `DenseAndExperts`; None for no feed-forward
            network.
        arrangement: order of norms and residuals: a key of `ARRANGEMENTS`, such as `"pre"` or `"sandwich"`.
        norm: norm of the layer, `rms_norm` or `layer_norm`.
        residual_scale: factor on the output of each sublayer before the residual addition, as in Granite.
        kv_layer: index of the earlier layer whose keys and values the mixer, with `shares_kv=True`, attends to (Brandon
            et al. 2024); None for its own.
        token_input: sublayer after the others that reads the layer's vector of the token, `TokenInput`; None for none.
        output_scale: whether the layer's output is multiplied by a learned number, as in Gemma 4.
        output_norm: norm of the sublayers' outputs in the arrangement `"sandwich"`, such as `layer_scale`; None for
            `norm`.
        laurel: learned residual beside the mixer in the arrangement `"sandwich_laurel"`, `LearnedAugmentedResidual`;
            None for none.
        updates: prediction and correction of the parts of the residual stream, `AlternatingUpdates`, in a model with
            `streams`; None for a residual stream of one part.

    Raises:
        ValueError: `output_norm` or `laurel` is given for another arrangement, or `laurel` is missing; or there is no
            mixer, and no feed-forward network either, or another arrangement than `"pre"`.
    """

    mixer: Part | None
    ffn: Part | None = None
    arrangement: str = "pre"
    norm: Part = field(default_factory=lambda: Part("rms_norm"))
    residual_scale: float = 1.0
    kv_layer: int | None = None
    token_input: Part | None = None
    output_scale: bool = False
    output_norm: Part | None = None
    laurel: Part | None = None
    updates: Part | None = None

    def __post_init__(self) -> None:
        if (self.laurel is not None) != (self.arrangement == "sandwich_laurel"):
            raise ValueError(
                "laurel must be given for the arrangement 'sandwich_laurel' alone, "
                f"got {self.laurel} and {self.arrangement!r}"
            )
        if self.output_norm is not None and self.arrangement != "sandwich":
            raise ValueError(f"output_norm must be None for the arrangement {self.arrangement!r}")
        if self.mixer is None and (self.ffn is None or self.arrangement != "pre"):
            raise ValueError(
                "a layer with mixer=None must have a feed-forward network and the arrangement 'pre', "
                f"got ffn={self.ffn} and {self.arrangement!r}"
            )

    def to_dict(self) -> dict[str, Any]:
        """Convert to dictionaries, lists, numbers and strings, as JSON stores them."""
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}


@checked
@dataclass(frozen=True)
class StageSpec:
    """Description of one stage of a `VisionHierarchy`.

    Attributes:
        embed_dim: number of features per position.
        embedding: how the stage makes its grid from the previous one or from the image: `PatchGrid`, `PatchMerging`.
        layers: layers of the stage, in order.
        norm: norm of the output of the last layer; None for no norm.

    Raises:
        ValueError: `layers` is empty.
    """

    embed_dim: int
    embedding: Part
    layers: tuple[LayerSpec, ...]
    norm: Part | None = None

    def __post_init__(self) -> None:
        check_at_least(1, layers=len(self.layers))

    def to_dict(self) -> dict[str, Any]:
        """Convert to dictionaries, lists, numbers and strings, as JSON stores them."""
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}


# Descriptions in lists, by the field.
MANY = {"layers": LayerSpec, "stages": StageSpec}


@checked
@dataclass(frozen=True)
class ModelSpec:
    """Description of a language model, layer by layer.

    Attributes:
        vocab_size: number of tokens in the vocabulary.
        embed_dim: number of features per position.
        layers: layers of the model, in order.
        norm: final norm; None for no norm.
        max_len: number of learned position embeddings; None for no position embeddings.
        embedding_norm: norm of the embeddings, before the first layer; None for no norm.
        positions_last: whether position embeddings are added after `embedding_norm` (BlenderBot-small).
        first_position: index of the first token's row in the position embeddings; 2 in BART.
        position: positional encoding that all layers share, such as `T5Bias`; None for none.
        embedding_position: positional embedding added to the tokens', `SinusoidalEmbedding`; None for none.
        layer_embedding: vectors of each token for the layers' `token_input`, `LayerEmbedding`; None for none.
        streams: parts of the residual stream, `ResidualStreams`, which the layers' `updates` predict and correct; the
            hidden states then have the shape `(batch, length, streams, embed)`. None for a stream of one part.
        mask_token: token whose embedding is zero, and the others' scaled up, as in ESM-2; None for none.
        token_dim: features of the token embedding and of the last hidden states, which linear layers project to and
            from `embed_dim` (OPT 350M); None for `embed_dim`, without projections.
        embed_scale: factor on the token embeddings.
        tied: whether the output head shares the token embedding's weight (tied embeddings).
        head_bias: whether the logits have a bias, as in GPT-J.
        logit_scale: factor on the logits, as in Cohere and Granite.
        logit_softcap: c in c tanh(logits / c), the bound of the logits; None for no bound.
        is_causal: whether each position attends only to itself and earlier positions; False for an encoder.
        num_types: number of token types (sentence A, sentence B); None for no type embeddings.
        relative_types: number of token types that the layers' `XLNetEmbedding` compares; None for none.
        sees_itself: whether a position attends to itself even where the mask hides it, such as padding in XLNet.
        special_tokens: end, padding and start tokens, the defaults of `generate`.

    Raises:
        ValueError: `layers` is empty.
    """

    vocab_size: int
    embed_dim: int
    layers: tuple[LayerSpec, ...]
    norm: Part | None = field(default_factory=lambda: Part("rms_norm"))
    max_len: int | None = None
    embedding_norm: Part | None = None
    positions_last: bool = False
    embed_scale: float = 1.0
    tied: bool = False
    head_bias: bool = False
    logit_scale: float = 1.0
    logit_softcap: float | None = None
    is_causal: bool = True
    num_types: int | None = None
    first_position: int = 0
    position: Part | None = None
    embedding_position: Part | None = None
    layer_embedding: Part | None = None
    streams: Part | None = None
    mask_token: int | None = None
    token_dim: int | None = None
    relative_types: int | None = None
    sees_itself: bool = False
    special_tokens: SpecialTokens = field(default_factory=SpecialTokens)

    def __post_init__(self) -> None:
        check_at_least(1, layers=len(self.layers))

    @property
    def output_dim(self) -> int:
        """Features of the last hidden states."""
        return self.embed_dim if self.token_dim is None else self.token_dim

    def to_dict(self) -> dict[str, Any]:
        """Convert to dictionaries, lists, numbers and strings, as JSON stores them."""
        return {each.name: plain(getattr(self, each.name)) for each in fields(self)}

    @classmethod
    @checked
    def from_dict(cls, given: Mapping[str, Any]) -> "ModelSpec":
        """Build a description from the result of `to_dict`, from either mirror.

        Raises:
            TypeError: the argument is not a mapping, or a value has the wrong type.
            ValueError: a field is missing or unknown, or its value is invalid.
        """
        check_described(cls, given)
        return described(cls, given)


def described(kind: Any, given: Any) -> Any:
    """Build a description of class `kind`, with parts, layers, stages and special tokens given as dictionaries."""
    check_described(kind, given)
    return kind(**{name: _within(name, x) for name, x in given.items()})


def check_described(kind: Any, given: Any) -> None:
    """Raise unless `given` maps only fields of the class `kind`, among them all fields without a default.

    Raises:
        TypeError: `given` is not a mapping.
        ValueError: a field is missing or unknown.
    """
    if not isinstance(given, Mapping):
        refuse(article(kind.__name__), "a mapping from names", given)
    every = fields(kind)
    names = [each.name for each in every]
    if unknown := [name for name in given if name not in names]:
        raise ValueError(f"{article(kind.__name__)} has {', '.join(names)}, got {unknown[0]!r}")
    needed = [each.name for each in every if each.default is each.default_factory is MISSING]
    if missing := [name for name in needed if name not in given]:
        raise ValueError(
            f"{article(kind.__name__)} must have {', '.join(needed)}, got none of the name {missing[0]!r}"
        )


def _within(name: str, given: Any) -> Any:
    """The value of a field: dictionaries become parts, layers, stages or special tokens."""
    if name in MANY:
        if not isinstance(given, list | tuple):
            raise TypeError(f"{name} must be a list of {name}, got {shown(given)}")
        return tuple([described(MANY[name], each) for each in given])
    if not isinstance(given, Mapping):
        return given
    kind = {"special_tokens": SpecialTokens, "layer": LayerSpec}.get(name)
    return _part(given) if kind is None else described(kind, given)


def _part(given: Mapping[str, Any]) -> Part:
    if {*given} - {"arguments"} != {"name"}:
        raise ValueError(f"a part has a name and arguments, got {sorted(map(str, given))}")
    return Part(given["name"], given.get("arguments", {}))


def _kept(name: str, x: Any) -> Any:
    """Convert an argument to the immutable form that a description stores."""
    if isinstance(x, np.generic):
        x = x.item()
    if x is None or isinstance(x, bool | int | float | str | Part):
        return x
    if isinstance(x, Mapping):
        return _part(x)
    if isinstance(x, list | tuple):
        return tuple([_kept(name, each) for each in x])
    kind = type(x).__name__
    given = "one of the other mirror" if kind == "Part" else kind
    raise TypeError(f"{name} must be a number, a string, a sequence of these or a Part, got {given}")


def plain(x: Any) -> Any:
    """Convert a field of a description to JSON types."""
    if isinstance(x, Part | LayerSpec | StageSpec):
        return x.to_dict()
    if isinstance(x, SpecialTokens):
        return {each.name: plain(getattr(x, each.name)) for each in fields(x)}
    return [plain(each) for each in x] if isinstance(x, tuple) else x
