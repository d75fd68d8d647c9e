r"""A mixture of experts: each position goes through a few of many feed-forward networks (DeepSeek-AI 2024).

$$ y = \sum_{e \in \mathrm{top}(s + b)} g_e\, f_e(x) + f_{\mathrm{shared}}(x), \qquad s = \sigma(W x), \quad
   g = \lambda\, s / \textstyle\sum s $$

The bias b only chooses, so that experts are used alike without a loss of their own. Experts stand in groups, of which
few are looked into: those with the highest sum of their two best.

| symbol    | argument or parameter                                          |
|-----------|----------------------------------------------------------------|
| W, b      | `router`, `router_bias`                                        |
| top       | `num_chosen` experts out of `num_chosen_groups` groups         |
| g         | over the chosen ones, whose sum is 1 with `normalised`         |
| $\lambda$ | `routed_scale`                                                 |
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import nnx
from jax import Array
from jax.typing import DTypeLike
from jaxtyping import Bool, Float

from jax_attention.arguments import checked
from jax_attention.checks import check_at_least, check_divisible
from jax_attention.feed_forward import GatedFeedForward
from jax_attention.layers import Factory, constant_parameter, linear, precise
from jax_attention.ops import at_least_float32, top_k_mask


@checked
@dataclass(frozen=True)
class ExpertsConfig:
    """The sizes of a mixture of experts.

    Attributes:
        num_experts: networks to choose from.
        num_chosen: how many each position goes through.
        ffn_dim: features inside each of them.
        num_shared: how many times `ffn_dim` the network has that every position goes through.
        num_groups: groups of experts; must divide `num_experts`, and each needs two.
        num_chosen_groups: how many of them are looked into.
        normalised: whether the weights of the chosen ones sum to 1.
        routed_scale: factor on what the chosen ones return.
    """

    num_experts: int
    num_chosen: int
    ffn_dim: int
    num_shared: int = 1
    num_groups: int = 1
    num_chosen_groups: int = 1
    normalised: bool = True
    routed_scale: float = 1.0


@checked
class MixtureOfExperts(nnx.Module):
    """Every position goes through the experts that its router chooses, and a shared one (DeepSeek-AI 2024).

    Every expert runs on every position and what was not chosen counts zero: plain, and right for any framework's
    compiler; a model of hundreds of experts needs one that skips.

    Args:
        embed_dim: features of input and output.
        config: the experts.
        activation: of each of them.

    Raises:
        ValueError: groups that do not divide or are too small, or an unknown activation.
    """

    def __init__(
        self,
        embed_dim: int,
        config: ExpertsConfig,
        *,
        activation: str = "silu",
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        dtype: DTypeLike | None = None,
    ):
        check_divisible(num_experts=config.num_experts, num_groups=config.num_groups)
        check_at_least(2, experts_in_a_group=config.num_experts // config.num_groups)
        check_at_least(config.num_chosen_groups, num_groups=config.num_groups)
        factory = Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)
        self.config = config
        self.router = linear(embed_dim, config.num_experts, bias=False, **factory)
        self.router_bias = constant_parameter(config.num_experts, value=0.0, **factory)
        self.experts = nnx.List(
            [
                GatedFeedForward(embed_dim, config.ffn_dim, activation=activation, **factory)
                for _ in range(config.num_experts)
            ]
        )
        self.shared = GatedFeedForward(
            embed_dim, config.num_shared * config.ffn_dim, activation=activation, **factory
        )

    def __call__(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length embed"]:
        """Transform each position."""
        shares = self.shares(x).astype(x.dtype)  # batch length experts
        output = self.shared(x)  # batch length embed
        for index, expert in enumerate(self.experts):
            output = output + shares[..., index, None] * expert(x)  # batch length embed
        return output

    @checked
    def shares(self, x: Float[Array, "batch length embed"]) -> Float[Array, "batch length experts"]:
        """What part each expert has in the result, zero for all that are not chosen."""
        config = self.config
        scores = jax.nn.sigmoid(at_least_float32(precise(self.router, x)))  # batch length experts
        choice = scores + self.router_bias[...].astype(scores.dtype)  # batch length experts
        chosen = top_k_mask(choice, config.num_chosen, self._open(choice))  # batch length experts
        shares = jnp.where(chosen, scores, 0.0)  # batch length experts
        if config.normalised:
            shares = shares / (shares.sum(axis=-1, keepdims=True) + 1e-20)
        return shares * config.routed_scale

    def _open(self, choice: Float[Array, "batch length experts"]) -> Bool[Array, "batch length experts"]:
        """Which experts stand in a group that is looked into."""
        config = self.config
        grouped = rearrange(
            choice, "batch length (group each) -> batch length group each", group=config.num_groups
        )
        best = jnp.where(top_k_mask(grouped, 2), grouped, 0.0).sum(axis=-1)  # batch length group
        chosen = top_k_mask(best, config.num_chosen_groups)  # batch length group
        return repeat(chosen, "batch length group -> batch length (group each)", each=grouped.shape[-1])
