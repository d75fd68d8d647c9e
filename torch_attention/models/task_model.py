r"""A model for a task: a backbone and a task head on its last hidden states.

    encoder = EncoderConfig(vocab_size=1000, embed_dim=32, num_heads=4, num_layers=2, ffn_dim=64, max_len=128)
    model = TaskModel(TaskSpec(encoder, Part("TokenClassifier", {"num_classes": 9})))

$$ y = \mathrm{head}(\mathrm{backbone}(x)) $$

The backbone is an `Encoder`, `Decoder`, `LanguageModel`, `VisionTransformer`, `VisionHierarchy` or `WaveformEncoder`;
the head is a class of `tasks`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.layers import Factory
from torch_attention.models.decoder import Decoder, DecoderConfig
from torch_attention.models.description import ModelSpec, Part, check_described, described, plain
from torch_attention.models.encoder import Encoder
from torch_attention.models.encoder_layer import EncoderConfig
from torch_attention.models.language import LanguageModel
from torch_attention.models.module_classes import call_arguments
from torch_attention.models.part_builder import build
from torch_attention.models.tasks.results import EmbeddingOutput, LogitsOutput, RewardOutput, SpanOutput
from torch_attention.models.token_masks import token_mask
from torch_attention.models.token_positions import has_absolute_positions
from torch_attention.models.vision_hierarchy import VisionHierarchy, VisionHierarchySpec
from torch_attention.models.vision_transformer import VisionTransformer, VisionTransformerConfig
from torch_attention.models.waveform import WaveformEncoder, WaveformSpec
from torch_attention.outputs import HiddenOutput


@checked
@dataclass(frozen=True)
class TaskSpec:
    """Description of a backbone and a task head.

    Attributes:
        backbone: sizes of the backbone, which is built without a head of its own.
        head: task head, a class of `tasks`, such as `Part("SequenceClassifier", {"num_classes": 3})`.
    """

    backbone: (
        EncoderConfig
        | DecoderConfig
        | ModelSpec
        | VisionTransformerConfig
        | VisionHierarchySpec
        | WaveformSpec
    )
    head: Part

    def to_dict(self) -> dict[str, Any]:
        """Convert to dictionaries, lists, numbers and strings, as JSON stores them."""
        given = self.backbone
        sizes = {each.name: plain(getattr(given, each.name)) for each in fields(given)}
        return {"backbone": {"class": type(given).__name__, **sizes}, "head": self.head.to_dict()}

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> "TaskSpec":
        """Build a description from the dictionary of `to_dict`, from either mirror.

        Raises:
            TypeError, ValueError: a name is unknown, or its value is invalid.
        """
        check_described(cls, given)
        check_described(Part, given["head"])
        if not isinstance(given["backbone"], Mapping):
            raise TypeError(f"backbone must be a mapping from names, got {type(given['backbone']).__name__}")
        sizes, head = dict(given["backbone"]), given["head"]
        kind = sizes.pop("class", None)
        if kind not in BACKBONES:
            raise ValueError(f"backbone must have a class of {', '.join(BACKBONES)}, got {kind!r}")
        backbone = described(BACKBONES[kind], sizes)
        return cls(backbone, Part(head["name"], head.get("arguments", {})))


BACKBONES = {
    each.__name__: each
    for each in (
        EncoderConfig,
        DecoderConfig,
        ModelSpec,
        VisionTransformerConfig,
        VisionHierarchySpec,
        WaveformSpec,
    )
}


@checked
class TaskModel(nn.Module):
    """A backbone with a task head (Devlin et al. 2018, section 3.2).

    Args:
        config: description of the backbone and the head.

    Raises:
        ValueError: the head is unknown or does not fit, or the backbone's sizes are invalid.
    """

    def __init__(
        self,
        config: TaskSpec,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        super().__init__()
        factory = Factory(device=device, dtype=dtype)
        known = {
            name: getattr(config.backbone, name, None) for name in ("embed_dim", "vocab_size", "token_dim")
        }
        known["embed_dim"] = getattr(config.backbone, "output_dim", known["embed_dim"])
        self.config = config
        self.backbone: Any = _backbone(config.backbone, factory)
        self.head: Any = build(config.head, known, {**factory})
        self.backbone_takes = call_arguments(self.backbone)
        self.head_takes = call_arguments(self.head)

    def forward(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        mask: Shaped[Tensor, "..."] | None = None,
        token_types: Int[Tensor, "batch length"] | None = None,
        *,
        positions: Int[Tensor, "..."] | None = None,
        boxes: Int[Tensor, "..."] | None = None,
        global_tokens: Bool[Tensor, "batch length"] | None = None,
        need_weights: bool = False,
        need_hidden_states: bool = False,
    ) -> LogitsOutput | SpanOutput | RewardOutput | EmbeddingOutput | HiddenOutput:
        """Compute the outputs of the task.

        Args:
            inputs: token ids `(batch, length)`, images `(batch, height, width, channels)`, or sound `(batch, samples)`.
            mask: boolean mask, True at real tokens or samples, `(batch, length)`; a head without pooling allows any
                mask that the backbone takes; None for no mask.
            token_types: token type ids, for an encoder with types; None for all 0.
            positions: positions of the tokens; None counts only real tokens, so that left padding shifts no position.
            boxes: box of each token on a page, `(batch, length, 4)`, for an encoder with boxes; None for all 0.
            global_tokens: boolean mask, True where a token is global, for an encoder with such attention; None for the
                encoder's own.
            need_weights: whether to return the attention weights of every layer.
            need_hidden_states: whether to return the hidden states: the first layer's input and every layer's output.

        Returns:
            The outputs of the head, named by the task (`logits`; `start_logits`, `end_logits`; `rewards`;
            `embeddings`), then `last_hidden_state`, `attentions` and `hidden_states`.

        Raises:
            TypeError: the mask is neither boolean nor 0/1.
            ValueError: shapes do not match, or the backbone does not take an argument.
            NotImplementedError: left padding is given to a layer that mixes by fixed positions.
        """
        options: dict[str, Any] = {"mask": mask, "token_types": token_types, "positions": positions}
        options |= {"boxes": boxes, "global_tokens": global_tokens}
        for name, given in options.items():
            if given is not None and name not in self.backbone_takes:
                raise ValueError(
                    f"{name} must be None for a {type(self.backbone).__name__}, which takes none"
                )
        if mask is not None:
            mask = token_mask(mask, inputs.shape)
        options |= {"mask": mask, "positions": self._positions(inputs, mask, positions)}
        read = getattr(self.backbone, "read", self.backbone)(
            inputs,
            **{name: x for name, x in options.items() if name in self.backbone_takes},
            need_weights=need_weights,
            need_hidden_states=need_hidden_states,
        )
        if mask is not None and isinstance(self.backbone, WaveformEncoder):
            mask = self.backbone.frame_mask(mask, inputs)  # batch frames
        head: dict[str, Any] = {"mask": mask} if "mask" in self.head_takes else {}
        if "embedding" in self.head_takes:
            head["embedding"] = getattr(self.backbone, "token_embedding", None)
        found = self.head(read.last_hidden_state, **head)
        return self.head.returns(
            *(found if isinstance(found, tuple) else (found,)),
            read.last_hidden_state,
            read.attentions,
            read.hidden_states,
        )

    def _positions(
        self,
        inputs: Shaped[Tensor, "batch ..."],
        mask: Shaped[Tensor, "..."] | None,
        positions: Int[Tensor, "..."] | None,
    ) -> Int[Tensor, "..."] | None:
        """The given positions; or, for absolute positions, the number of real tokens before each real token."""
        absolute = has_absolute_positions(self.config.backbone)
        if positions is not None or mask is None or not absolute or mask.shape[1:3] != (1, 1):
            return positions
        real = torch.broadcast_to(mask[:, 0, 0], inputs.shape)  # batch length
        places = torch.arange(inputs.shape[1], device=inputs.device)  # length
        return torch.where(real, real.cumsum(-1) - 1, places)


def _backbone(config: Any, factory: Factory) -> Any:
    """The backbone, without a head of its own."""
    if isinstance(config, EncoderConfig):
        return Encoder(replace(config, pooler=False), **factory)
    if isinstance(config, DecoderConfig):
        return Decoder(replace(config, tied=True), **factory)
    if isinstance(config, ModelSpec):
        return LanguageModel(replace(config, tied=True, head_bias=False), **factory)
    if isinstance(config, WaveformSpec):
        return WaveformEncoder(config, **factory)
    if isinstance(config, VisionHierarchySpec):
        return VisionHierarchy(replace(config, pooling=None), **factory)
    return VisionTransformer(replace(config, pooler=False, num_classes=None, pooling=None), **factory)
