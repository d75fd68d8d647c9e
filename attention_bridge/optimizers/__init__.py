"""Conversion of optimizers between PyTorch and optax: the update rule, and the optimizer state in both directions.

| function                   | returns                                                          |
|----------------------------|------------------------------------------------------------------|
| `optimizer_like`           | an optax transformation equivalent to a torch optimizer          |
| `optimizer_state_to_optax` | its state, with the moments of the torch optimizer               |
| `optimizer_state_to_torch` | the torch optimizer, with the moments of an optax state          |

| optimizer in PyTorch                                  | its transformation                                     |
|-------------------------------------------------------|--------------------------------------------------------|
| `torch.optim.SGD`, `Adam`, `AdamW`, `RMSprop`         | the same steps, with PyTorch's bias correction and eps |
| `Lion`, as `lion-pytorch` writes it                   | the same steps, with a schedule of the first beta      |
| `torch.optim.Adafactor`, `transformers.Adafactor`     | the same steps; the torch matrices are factored        |
| `torch.optim.Muon` (PyTorch 2.9)                      | the same steps, rounded to bfloat16 as in PyTorch      |
| a list, e.g. Muon for matrices, AdamW for the rest    | one transformation of all parameters                   |
| `torch.optim.swa_utils.AveragedModel`                 | `update(params, state)` returns the averaged weights   |

Any scheduler of `torch.optim.lr_scheduler` that depends on the step count alone is converted too, also `LambdaLR` and
chains of schedulers.

To continue a PyTorch run in JAX (`params` is `nnx.state(jax_model, nnx.Param)`):

>>> transformation = optimizer_like(optimizer, model=model, scheduler=scheduler, steps=1000, max_norm=1.0)
>>> params = nnx.state(transfer(model, jax_model), nnx.Param)
>>> state = optimizer_state_to_optax(optimizer, model, transformation, params, scheduler=scheduler)
>>> updates, state = transformation.update(gradients, state, params)
>>> params = optax.apply_updates(params, updates)

An `nnx.Optimizer` takes such a state with `nnx.update(jax_optimizer.opt_state, nnx.state(state))`, and its
`opt_state` can be passed to `optimizer_state_to_torch` directly.

One difference remains: PyTorch skips a parameter without a gradient, while in JAX its gradient is zero, so that weights
and moments decay.
"""

from attention_bridge.optimizers.states import optimizer_state_to_optax
from attention_bridge.optimizers.to_optax import optimizer_like
from attention_bridge.optimizers.to_torch import optimizer_state_to_torch

__all__ = ["optimizer_like", "optimizer_state_to_optax", "optimizer_state_to_torch"]
