r"""Expert routing: the choice of experts and their weights in the output.

$$ s = \sigma(l), \quad g = \lambda\, s_e / \textstyle\sum s \;\text{over}\; \mathrm{top}(s + b) \qquad\text{or}\qquad
   s = \mathrm{softmax}(l), \quad g = s_e / \textstyle\sum s \;\text{over}\; \mathrm{top}(s) $$

| class            | scores                           | chosen by                          | models                 |
|------------------|----------------------------------|------------------------------------|------------------------|
| `SigmoidRouting` | sigmoid per expert               | score and bias, in the best groups | DeepSeek-V3, Kimi, GLM |
| `SoftmaxRouting` | softmax over all experts         | score                              | Mixtral, Qwen, gpt-oss |
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
        num_chosen_groups: number of groups to choose experts from.
        normalised: whether the weights of the chosen experts sum to 1.
        routed_scale: factor on the weights.
    """

    num_chosen: int
    num_groups: int = 1
    num_chosen_groups: int = 1
    normalised: bool = True
    routed_scale: float = 1.0
    has_bias: ClassVar[bool] = True

    def check(self, num_experts: int) -> None:
        """Raise ValueError unless the routing can choose from this number of experts."""
        check_divisible(num_experts=num_experts, num_groups=self.num_groups)
        check_at_least(2, experts_in_a_group=num_experts // self.num_groups)
        check_at_least(self.num_chosen_groups, num_groups=self.num_groups)
        check_at_least(self.num_chosen, num_experts=num_experts)

    def shares(
        self, logits: Float[Tensor, "batch length experts"], bias: Float[Tensor, "experts"]
    ) -> Float[Tensor, "batch length experts"]:
        """Weight of each expert in the output; zero for experts that were not chosen."""
        scores = torch.sigmoid(logits)  # batch length experts
        choice = scores + bias.to(scores.dtype)  # batch length experts
        chosen = top_k_mask(choice, self.num_chosen, self._open(choice))  # batch length experts
        shares = torch.where(chosen, scores, 0.0)  # batch length experts
        if self.normalised:
            shares = shares / (shares.sum(dim=-1, keepdim=True) + 1e-20)
        return shares * self.routed_scale

    def _open(self, choice: Float[Tensor, "batch length experts"]) -> Bool[Tensor, "batch length experts"]:
        """Boolean mask of the experts in the chosen groups."""
        grouped = rearrange(
            choice, "batch length (group each) -> batch length group each", group=self.num_groups
        )
        best = torch.where(top_k_mask(grouped, 2), grouped, 0.0).sum(dim=-1)  # batch length group
        chosen = top_k_mask(best, self.num_chosen_groups)  # batch length group
        return repeat(chosen, "batch length group -> batch length (group each)", each=grouped.shape[-1])


@checked
@dataclass(frozen=True)
class SoftmaxRouting:
    """Routing by softmax scores; the highest are chosen (Shazeer et al. 2017; Jiang et al. 2024).

    Attributes:
        num_chosen: number of experts per position.
        normalised: whether the weights of the chosen experts sum to 1, as in a softmax over these experts alone.
        routed_scale: factor on the weights.
    """

    num_chosen: int
    normalised: bool = True
    routed_scale: float = 1.0
    has_bias: ClassVar[bool] = False

    def check(self, num_experts: int) -> None:
        """Raise ValueError unless the routing can choose from this number of experts."""
        check_at_least(self.num_chosen, num_experts=num_experts)

    def shares(
        self, logits: Float[Tensor, "batch length experts"], bias: None = None
    ) -> Float[Tensor, "batch length experts"]:
        """Weight of each expert in the output; zero for experts that were not chosen."""
        scores = torch.softmax(logits, dim=-1)  # batch length experts
        shares = torch.where(top_k_mask(scores, self.num_chosen), scores, 0.0)  # batch length experts
        if self.normalised:
            shares = shares / shares.sum(dim=-1, keepdim=True)
        return shares * self.routed_scale
