"""Training across frameworks: the optimizer of a PyTorch run in optax, and its state both ways.

| function                   | gives                                                            |
|----------------------------|------------------------------------------------------------------|
| `optimizer_like`           | the optax transformation that steps as a torch optimizer does    |
| `optimizer_state_to_optax` | its state, from the moments that the torch optimizer holds       |
| `optimizer_state_to_torch` | the torch optimizer, filled with the moments of the optax state  |

A run that was begun in PyTorch goes on in JAX (`params` is `nnx.state(jax_model, nnx.Param)`):

>>> transformation = optimizer_like(optimizer, model=model, scheduler=scheduler, steps=1000, max_norm=1.0)
>>> params = nnx.state(transfer(model, jax_model), nnx.Param)
>>> state = optimizer_state_to_optax(optimizer, model, transformation, params, scheduler=scheduler)
>>> updates, state = transformation.update(gradients, state, params)
>>> params = optax.apply_updates(params, updates)

An `nnx.Optimizer` takes such a state with `nnx.update(jax_optimizer.opt_state, nnx.state(state))`, and its
`opt_state` can be given to `optimizer_state_to_torch` as it is.

What the two frameworks do not share: PyTorch leaves alone a parameter that got no gradient, where JAX has a gradient
of zeros, which decays weights and moments.
"""

from attention_bridge.optimizers.back import optimizer_state_to_torch
from attention_bridge.optimizers.like import optimizer_like
from attention_bridge.optimizers.states import optimizer_state_to_optax

__all__ = ["optimizer_like", "optimizer_state_to_optax", "optimizer_state_to_torch"]
