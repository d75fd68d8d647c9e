r"""Expert routing: the choice of experts and their weights in the output.

$$ s = \sigma(l), \quad g = \lambda\, s_e / \textstyle\sum s \;\text{over}\; \mathrm{top}(s + b) \qquad\text{or}\qquad
   s = \mathrm{softmax}(l), \quad g = s_e / \textstyle\sum s \;\text{over}\; \mathrm{top}(s) $$

| class                | scores                           | chosen by                          | models         |
|----------------------|----------------------------------|------------------------------------|----------------|
| `SigmoidRouting`     | sigmoid per expert               | score and bias, in the best groups | DeepSeek-V3    |
| `SoftmaxRouting`     | softmax over all experts         | score, in the best groups          | Mixtral, Qwen  |
| `SparseMixerRouting` | softmax over those near the best | logit, one after another           | Phi-3.5-MoE    |
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from torch_attention.arguments import checked
from torch_attention.checks import check_at_least, check_divisible
from torch_attention.ops import top_k_mask


@checked
@dataclass(frozen=True)
class SigmoidRouting:
    """Routing by sigmoid scores, with a load-balancing bias that affects only the choice (DeepSeek-AI 2024).

    Experts are chosen only from the best groups: the groups with the highest sum of their two best scores.

    Attributes:
        num_chosen: number of experts per position.
        num_groups: number of groups; must divide the number of experts, with at least two experts per group.
        num_chosen_groups: number of groups to choose experts from; they must have `num_chosen` experts.
        normalised: whether the weights of the chosen experts sum to 1.
        routed_scale: factor on the weights.
        biased: whether there is a bias; False chooses by the logits alone, as in Llama 4.
    """

    num_chosen: int
    num_groups: int = 1
    num_chosen_groups: int = 1
    normalised: bool = True
    routed_scale: float = 1.0
    biased: bool = True

    def check(self, num_experts: int) -> None:
        """Raise ValueError unless the routing can choose from this number of experts."""
        check_groups(num_experts, self.num_chosen, self.num_groups, self.num_chosen_groups)
        check_at_least(2, experts_in_a_group=num_experts // self.num_groups)

    def shares(
        self, logits: Float[Tensor, "batch length experts"], bias: Float[Tensor, "experts"] | None = None
    ) -> Float[Tensor, "batch length experts"]:
        """Weight of each expert in the output; zero for experts that were not chosen."""
        scores = torch.sigmoid(logits)  # batch length experts
        choice = logits if bias is None else scores + bias.to(scores.dtype)  # batch length experts
        open = in_best_groups(choice, self.num_groups, self.num_chosen_groups, 2)  # batch length experts
        chosen = top_k_mask(choice, self.num_chosen, open)  # batch length experts
        shares = torch.where(chosen, scores, 0.0)  # batch length experts
        if self.normalised:
            shares = shares / (shares.sum(dim=-1, keepdim=True) + 1e-20)
        return shares * self.routed_scale


@checked
@dataclass(frozen=True)
class SoftmaxRouting:
    """Routing by softmax scores; the highest are chosen (Shazeer et al. 2017; Jiang et al. 2024).

    Experts are chosen only from the best groups: the groups with the highest scores (DeepSeek-AI 2024, DeepSeek-V2).

    Attributes:
        num_chosen: number of experts per position.
        normalised: whether the weights of the chosen experts sum to 1, as in a softmax over these experts alone.
        routed_scale: factor on the weights.
        num_groups: number of groups; must divide the number of experts.
        num_chosen_groups: number of groups to choose experts from; they must have `num_chosen` experts.
        biased: whether there is a load-balancing bias, which affects only the choice (Ernie 4.5).
        least_sum: least divisor of the weights, if their sum is smaller; it matters only with `normalised`.
    """

    num_chosen: int
    normalised: bool = True
    routed_scale: float = 1.0
    num_groups: int = 1
    num_chosen_groups: int = 1
    biased: bool = False
    least_sum: float = 0.0

    def check(self, num_experts: int) -> None:
        """Raise ValueError unless the routing can choose from this number of experts."""
        check_groups(num_experts, self.num_chosen, self.num_groups, self.num_chosen_groups)

    def shares(
        self, logits: Float[Tensor, "batch length experts"], bias: Float[Tensor, "experts"] | None = None
    ) -> Float[Tensor, "batch length experts"]:
        """Weight of each expert in the output; zero for experts that were not chosen."""
        scores = torch.softmax(logits, dim=-1)  # batch length experts
        choice = scores if bias is None else scores + bias.to(scores.dtype)  # batch length experts
        open = in_best_groups(choice, self.num_groups, self.num_chosen_groups, 1)  # batch length experts
        chosen = top_k_mask(choice, self.num_chosen, open)  # batch length experts
        shares = torch.where(chosen, scores, 0.0)  # batch length experts
        if self.normalised:
            shares = shares / torch.clip(shares.sum(dim=-1, keepdim=True), min=self.least_sum)
        return shares * self.routed_scale


@checked
@dataclass(frozen=True)
class SparseMixerRouting:
    """Routing that chooses the best expert repeatedly, as SparseMixer does outside training (Liu et al. 2024).

    The weight of a chosen expert is its softmax score among the experts that are not yet chosen and whose logit is
    near the best one. The weights do not sum to 1.

    Attributes:
        num_chosen: number of experts per position.
        jitter: logits are near the best one if their relative distance is at most twice this number.
    """

    num_chosen: int = 2
    jitter: float = 0.01
    biased: ClassVar[bool] = False

    def check(self, num_experts: int) -> None:
        """Raise ValueError unless the routing can choose from this number of experts."""
        check_at_least(self.num_chosen, num_experts=num_experts)

    def shares(
        self, logits: Float[Tensor, "batch length experts"], bias: None = None
    ) -> Float[Tensor, "batch length experts"]:
        """Weight of each expert in the output; zero for experts that were not chosen."""
        shares = torch.zeros_like(logits)  # batch length experts
        open = torch.ones_like(logits, dtype=torch.bool)  # batch length experts
        for _ in range(self.num_chosen):
            left = torch.where(open, logits, -torch.inf)  # batch length experts
            best = torch.amax(left, dim=-1, keepdim=True)  # batch length 1
            far = (best - logits) / torch.maximum(torch.abs(logits), best) > 2 * self.jitter
            scores = torch.softmax(torch.where(far, -torch.inf, left), dim=-1)  # batch length experts
            chosen = top_k_mask(left, 1)  # batch length experts
            shares = torch.where(chosen, scores, shares)  # batch length experts
            open = open & ~chosen
        return shares


def check_groups(num_experts: int, num_chosen: int, num_groups: int, num_chosen_groups: int) -> None:
    """Raise ValueError unless so many experts can be chosen from so many groups of these experts."""
    check_divisible(num_experts=num_experts, num_groups=num_groups)
    check_at_least(num_chosen_groups, num_groups=num_groups)
    check_at_least(num_chosen, experts_in_chosen_groups=num_chosen_groups * (num_experts // num_groups))


def in_best_groups(
    choice: Float[Tensor, "batch length experts"], num_groups: int, num_chosen_groups: int, num_best: int
) -> Bool[Tensor, "batch length experts"]:
    """Boolean mask of the experts in the best groups.

    Args:
        choice: score of each expert.
        num_groups: number of groups of experts, in order.
        num_chosen_groups: number of best groups.
        num_best: a group is as good as the sum of so many of its best scores.
    """
    grouped = rearrange(choice, "batch length (group each) -> batch length group each", group=num_groups)
    best = torch.where(top_k_mask(grouped, num_best), grouped, 0.0).sum(dim=-1)  # batch length group
    chosen = top_k_mask(best, num_chosen_groups)  # batch length group
    return repeat(chosen, "batch length group -> batch length (group each)", each=grouped.shape[-1])
