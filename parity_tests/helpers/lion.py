"""A reference implementation of Lion in PyTorch, which has none (Chen et al. 2023, algorithm 2)."""

from collections.abc import Iterable

import torch


class Lion(torch.optim.Optimizer):
    """Lion with decoupled weight decay, and with the settings and the state `exp_avg` of `lion-pytorch`."""

    def __init__(
        self,
        params: Iterable[torch.nn.Parameter],
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Take one step."""
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state, gradient = self.state[parameter], parameter.grad
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                average = state["exp_avg"]
                direction = torch.sign(first * average + (1 - first) * gradient)
                parameter -= group["lr"] * (direction + group["weight_decay"] * parameter)
                average.mul_(second).add_((1 - second) * gradient)
