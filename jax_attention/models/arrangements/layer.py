"""What a layer is made of, however it is arranged."""

from typing import Any, TypedDict

from flax import nnx
from jax import Array
from jaxtyping import Bool, Float, Int

from jax_attention.models.kinds import call_arguments
from jax_attention.models.mixing import mix
from jax_attention.outputs import CachedOutput


class LayerCall(TypedDict):
    """Arguments of a layer's call, beside the sequence and its mask.

    Attributes:
        positions: where the tokens stand; see `mixing.mix`.
        memory: the cache or state to go on from.
        reads_on: whether the call reads on.
        need_weights: whether to return the weights.
    """

    positions: Int[Array, "..."] | None
    memory: Any
    reads_on: bool
    need_weights: bool


class Layer(nnx.Module):
    """A mixer, and a feed-forward network if there is one; the base of the arrangements, which add norms.

    Args:
        mixer: what mixes tokens, kept as `attention`.
        ffn: the feed-forward network behind it, or None.
    """

    def __init__(self, mixer: Any, ffn: Any):
        self.attention = mixer
        self.takes = call_arguments(mixer)
        self.ffn = ffn

    def mix(
        self,
        x: Float[Array, "batch length embed"],
        mask: Bool[Array, "..."] | None,
        call: LayerCall,
    ) -> CachedOutput:
        """What the mixer returns."""
        return mix(self.attention, x, mask, names=self.takes, **call)
