r"""Attention and a recurrent layer in parallel: both read the same input (Falcon-H1, TII 2025; Hymba, NVIDIA 2024).

$$ y = a_{\mathrm{out}}\, \mathrm{attention}(a_{\mathrm{in}}\, x)
     + r_{\mathrm{out}}\, \mathrm{recurrent}(r_{\mathrm{in}}\, x) $$

Attention recalls single tokens exactly; the recurrent layer summarises all of them in a state of constant size.

| symbol    | argument           |
|-----------|--------------------|
| attention | `attention_mixer`  |
| recurrent | `recurrent_mixer`  |
| a         | `attention_scales` |
| r         | `recurrent_scales` |
"""

from functools import partial
from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from torch_attention.arguments import checked
from torch_attention.layers import scaled
from torch_attention.models.module_classes import call_arguments
from torch_attention.models.token_mixers import check_memory, first_memory, fixed_positions, mix
from torch_attention.outputs import RecurrentOutput


class ParallelState(NamedTuple):
    """Decoding state of attention and a recurrent layer in parallel.

    Attributes:
        cache: KV cache of the attention.
        state: recurrent state of the recurrent layer; None before the first token.
    """

    cache: Any
    state: Any


@checked
class ParallelMixers(nn.Module):
    """Token mixer that adds the outputs of causal attention and of a recurrent layer (Falcon-H1, 2025).

    Args:
        attention_mixer: causal attention layer.
        recurrent_mixer: recurrent layer, such as `Mamba2`.
        attention_scales: factors on the input and on the output of the attention.
        recurrent_scales: factors on the input and on the output of the recurrent layer.

    Raises:
        ValueError: scales that are not two numbers, or layers of different `embed_dim`.
    """

    def __init__(
        self,
        attention_mixer: nn.Module,
        recurrent_mixer: nn.Module,
        *,
        attention_scales: tuple[float, ...] = (1.0, 1.0),
        recurrent_scales: tuple[float, ...] = (1.0, 1.0),
    ):
        super().__init__()
        for name, scales in (("attention_scales", attention_scales), ("recurrent_scales", recurrent_scales)):
            if len(scales) != 2:
                raise ValueError(f"{name} must be two numbers, got {len(scales)}")
        mixers: tuple[Any, Any] = attention_mixer, recurrent_mixer
        sizes = [each.embed_dim for each in mixers]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"recurrent_mixer must have embed_dim={sizes[0]} as attention_mixer, got {sizes[1]}"
            )
        self.embed_dim = sizes[0]
        self.attention_mixer: Any = attention_mixer
        self.recurrent_mixer: Any = recurrent_mixer
        self.attention_scales = attention_scales
        self.recurrent_scales = recurrent_scales

    def forward(
        self,
        x: Float[Tensor, "batch length embed"],
        mask: Bool[Tensor, "..."] | None = None,
        *,
        state: ParallelState | None = None,
        positions: Int[Tensor, "..."] | None = None,
        need_weights: bool = False,
    ) -> RecurrentOutput:
        """Apply both layers and add their outputs.

        Args:
            x: input sequence, `(batch, length, embed_dim)`.
            mask: boolean mask, `(batch, 1, 1, length)`, False for padding; None for no mask.
            state: decoding state of the earlier tokens, first from `start()`; None without incremental decoding.
            positions: positions of the tokens, without a `state`; None for 0, 1, 2, and so on.
            need_weights: whether to return the attention weights.

        Returns:
            Output `(batch, length, embed_dim)`; the state after the last token, or None without a state; and the
            weights of the attention `(batch, heads, length, length)`, or None.
        """
        if state is not None:
            self.check_state(state)
        cache, memory = (None, None) if state is None else state
        run = partial(mix, positions=positions, position=None, reads_on=state is not None)
        attended = run(
            self.attention_mixer,
            scaled(x, self.attention_scales[0]),
            mask,
            names=call_arguments(self.attention_mixer),
            memory=cache,
            need_weights=need_weights,
        )
        read = run(
            self.recurrent_mixer,
            scaled(x, self.recurrent_scales[0]),
            mask,
            names=call_arguments(self.recurrent_mixer),
            memory=memory,
            need_weights=False,
        )
        output = scaled(read.output, self.recurrent_scales[1])  # batch length embed
        output = output + scaled(attended.output, self.attention_scales[1])  # batch length embed
        after = None if state is None else ParallelState(attended.cache, read.cache)
        return RecurrentOutput(output, after, attended.weights)

    def start(self, capacity: int | None = None) -> ParallelState:
        """Decoding state before the first token.

        Args:
            capacity: number of tokens that the KV cache holds; None for a cache that grows.
        """
        return ParallelState(first_memory(self.attention_mixer, capacity), None)

    def check_state(self, state: Any) -> None:
        """Raise TypeError unless `state` is a decoding state whose parts fit the two layers."""
        if not isinstance(state, ParallelState):
            kind = "None" if state is None else type(state).__name__
            raise TypeError(f"state of ParallelMixers must be a ParallelState from start(), got {kind}")
        check_memory(self.attention_mixer, state.cache)
        check_memory(self.recurrent_mixer, state.state)

    @property
    def is_causal(self) -> bool:
        """Whether the attention is causal; the recurrent layer always is."""
        return getattr(self.attention_mixer, "is_causal", True)

    @property
    def num_heads(self) -> int | None:
        """Number of heads of the attention."""
        return getattr(self.attention_mixer, "num_heads", None)

    @property
    def fixed_positions(self) -> str | None:
        """The reason why the places of tokens matter to the attention, not only their distances; None if not."""
        return fixed_positions(self.attention_mixer)
