"""Base class of the arrangements of a layer."""

from typing import Any, NotRequired, TypedDict

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.models.module_classes import call_arguments
from torch_attention.models.token_mixers import mix
from torch_attention.outputs import CachedOutput


class LayerCall(TypedDict):
    """Arguments of a layer's call, besides the sequence and its mask.

    Attributes:
        positions: positions of the tokens; None for 0, 1, 2, and so on.
        position: positional encoding that all layers share; None for none.
        memory: KV cache or recurrent state; None without one.
        reads_on: whether the call is a step of incremental decoding.
        need_weights: whether to return the attention weights.
        shared: keys and values of an earlier layer; None for the layer's own.
        shares: whether later layers attend to this layer's keys and values, which are returned instead of the cache.
    """

    positions: Int[Tensor, "..."] | None
    position: Any
    memory: Any
    reads_on: bool
    need_weights: bool
    shared: NotRequired[Any]
    shares: NotRequired[bool]


class Layer(nn.Module):
    """Token mixer and optional feed-forward network; base class of the arrangements, which add norms.

    Args:
        mixer: attention module or recurrent layer, stored as `attention`; None for none.
        ffn: feed-forward network; None for no feed-forward network.
        residual_scale: factor on the output of each sublayer before the residual addition.

    Attributes:
        kv_layer: index of the earlier layer whose keys and values the mixer attends to; None for its own.
        token_input: sublayer after the others that reads the token's vector for this layer; absent for none.
        output_scale: factor on the output; absent for none.
        updates: prediction and correction of the parts of a residual stream; absent for a stream of one part.
    """

    kv_layer: int | None = None
    token_input: Any
    output_scale: Any
    updates: Any

    def __init__(self, mixer: Any, ffn: Any, residual_scale: float = 1.0):
        super().__init__()
        self.attention = mixer
        self.takes = frozenset() if mixer is None else call_arguments(mixer)
        self.ffn = ffn
        self.residual_scale = residual_scale

    def mix(
        self,
        x: Float[Tensor, "batch *places embed"],
        mask: Bool[Tensor, "..."] | None,
        call: LayerCall,
    ) -> CachedOutput:
        """Call the mixer."""
        return mix(self.attention, x, mask, names=self.takes, **call)

    def finish(self, read: CachedOutput, token: Float[Tensor, "batch length dim"] | None) -> CachedOutput:
        """Apply the sublayer that reads the token's vector for this layer, and the factor on the output."""
        x = read.output  # batch *places embed
        if hasattr(self, "token_input"):
            x = x + self.token_input(x, token)  # batch *places embed
        if hasattr(self, "output_scale"):
            x = x * self.output_scale[...].to(x.dtype)  # batch *places embed
        return read._replace(output=x)

    def run(
        self,
        x: Float[Tensor, "batch length *streams embed"],
        mask: Bool[Tensor, "..."] | None,
        call: LayerCall,
        token: Float[Tensor, "batch length dim"] | None,
    ) -> CachedOutput:
        """Run the whole layer, with `finish`; with alternating updates, on the active part of the residual stream."""
        if not hasattr(self, "updates"):
            return self.finish(self(x, mask, **call), token)
        predicted = self.updates.predict(x)  # batch length streams embed
        read = self(self.updates.active_part(predicted), mask, **call)
        streams = self.updates.correct(predicted, read.output)  # batch length streams embed
        if hasattr(self, "token_input"):
            streams = self.updates.add(streams, self.token_input(self.updates.scaled_part(streams), token))
        return read._replace(output=streams)

    def add(
        self, x: Float[Tensor, "batch *places embed"], *changes: Float[Tensor, "batch *places embed"]
    ) -> Float[Tensor, "batch *places embed"]:
        """Add the outputs of sublayers, each times `residual_scale`, to the residual stream `x`."""
        for change in changes:
            x = x + (change if self.residual_scale == 1.0 else change * self.residual_scale)
        return x
