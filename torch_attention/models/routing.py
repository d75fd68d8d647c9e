r"""How a router chooses experts, and what part each chosen one has in the result.

$$ s = \sigma(l), \quad g = \lambda\, s_e / \textstyle\sum s \;\text{over}\; \mathrm{top}(s + b) \qquad\text{or}\qquad
   s = \mathrm{softmax}(l), \quad g = s_e / \textstyle\sum s \;\text{over}\; \mathrm{top}(s) $$

| class            | scores                           | chosen by                          | models                 |
|------------------|----------------------------------|------------------------------------|------------------------|
| `SigmoidRouting` | each expert's by itself          | score and bias, in the best groups | DeepSeek-V3, Kimi, GLM |
| `SoftmaxRouting` | of all experts, they sum up to 1 | score alone                        | Mixtral, Qwen, gpt-oss |
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
    """Scores are sigmoids, and a learned bias that only chooses keeps experts in use alike (DeepSeek-AI 2024).

    Experts stand in groups, of which few are looked into: those with the highest sum of their two best.

    Attributes:
        num_chosen: how many experts each position goes through.
        num_groups: groups of experts; must divide their number, and each needs two.
        num_chosen_groups: how many of them are looked into.
        normalised: whether the parts of the chosen ones sum to 1.
        routed_scale: factor on these parts.
    """

    num_chosen: int
    num_groups: int = 1
    num_chosen_groups: int = 1
    normalised: bool = True
    routed_scale: float = 1.0
    has_bias: ClassVar[bool] = True

    def check(self, num_experts: int) -> None:
        """Raise ValueError unless so many experts can be chosen from."""
        check_divisible(num_experts=num_experts, num_groups=self.num_groups)
        check_at_least(2, experts_in_a_group=num_experts // self.num_groups)
        check_at_least(self.num_chosen_groups, num_groups=self.num_groups)
        check_at_least(self.num_chosen, num_experts=num_experts)

    def shares(
        self, logits: Float[Tensor, "batch length experts"], bias: Float[Tensor, "experts"]
    ) -> Float[Tensor, "batch length experts"]:
        """What part each expert has in the result, zero for all that are not chosen."""
        scores = torch.sigmoid(logits)  # batch length experts
        choice = scores + bias.to(scores.dtype)  # batch length experts
        chosen = top_k_mask(choice, self.num_chosen, self._open(choice))  # batch length experts
        shares = torch.where(chosen, scores, 0.0)  # batch length experts
        if self.normalised:
            shares = shares / (shares.sum(dim=-1, keepdim=True) + 1e-20)
        return shares * self.routed_scale

    def _open(self, choice: Float[Tensor, "batch length experts"]) -> Bool[Tensor, "batch length experts"]:
        """Which experts stand in a group that is looked into."""
        grouped = rearrange(
            choice, "batch length (group each) -> batch length group each", group=self.num_groups
        )
        best = torch.where(top_k_mask(grouped, 2), grouped, 0.0).sum(dim=-1)  # batch length group
        chosen = top_k_mask(best, self.num_chosen_groups)  # batch length group
        return repeat(chosen, "batch length group -> batch length (group each)", each=grouped.shape[-1])


@checked
@dataclass(frozen=True)
class SoftmaxRouting:
    """Scores are a softmax over all experts, and the highest are chosen (Shazeer et al. 2017; Jiang et al. 2024).

    Attributes:
        num_chosen: how many experts each position goes through.
        normalised: whether the parts of the chosen ones sum to 1, which is the softmax over these alone.
        routed_scale: factor on these parts.
    """

    num_chosen: int
    normalised: bool = True
    routed_scale: float = 1.0
    has_bias: ClassVar[bool] = False

    def check(self, num_experts: int) -> None:
        """Raise ValueError unless so many experts can be chosen from."""
        check_at_least(self.num_chosen, num_experts=num_experts)

    def shares(
        self, logits: Float[Tensor, "batch length experts"], bias: None = None
    ) -> Float[Tensor, "batch length experts"]:
        """What part each expert has in the result, zero for all that are not chosen."""
        scores = torch.softmax(logits, dim=-1)  # batch length experts
        shares = torch.where(top_k_mask(scores, self.num_chosen), scores, 0.0)  # batch length experts
        if self.normalised:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        return shares * self.routed_scale
