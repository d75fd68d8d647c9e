"""Choose the fastest implementation for a call."""

from functools import partial
from typing import Any

import jax
from jax import Array
from jaxtyping import Float

from jax_attention.ops.arrays import known_at_most
from jax_attention.ops.blockwise import BLOCKWISE
from jax_attention.ops.call import Call
from jax_attention.ops.definition import REFERENCE
from jax_attention.ops.distributed.ring import RING
from jax_attention.ops.distributed.shards import over_shards, shards_of
from jax_attention.ops.native import CUDNN, SPLASH

SHORT = 256 * 256  # query-key pairs up to which a loop over tiles does not pay off


def fastest(call: Call) -> Any:
    """Run a call with the fastest implementation for the platform that it is compiled for."""
    shards = shards_of(call)
    if shards is not None and shards.sequence is not None and not RING.refusal(call):
        return RING.run(call)
    if shards is not None:
        return over_shards(call, shards._replace(sequence=None), fastest)
    if known_at_most(call.query.shape[-2] * call.key.shape[-2], SHORT) or BLOCKWISE.refusal(call):
        return REFERENCE.run(call)
    native = {"cuda": CUDNN, "tpu": SPLASH}
    able = {platform: partial(each.run, call) for platform, each in native.items() if not each.refusal(call)}
    if not able:
        return BLOCKWISE.run(call)
    return jax.lax.platform_dependent(**able, default=partial(BLOCKWISE.run, call))


def differentiable(call: Call) -> Float[Array, "*batch heads query value_dim"]:
    """Like `fastest`, with derivatives of every order even if the kernel has only the first."""
    return fastest(call)  # tiles have all of them; the accelerators' kernels raise beyond the first
