"""Arrangements of token mixer, feed-forward network, norms and residuals in a layer."""

from jax_attention.models.arrangements.laurel_sandwich import LaurelSandwich as LaurelSandwich
from jax_attention.models.arrangements.output_norm import OutputNorm as OutputNorm
from jax_attention.models.arrangements.parallel import Parallel as Parallel
from jax_attention.models.arrangements.parallel import ParallelSharedNorm as ParallelSharedNorm
from jax_attention.models.arrangements.post_norm import PostNorm as PostNorm
from jax_attention.models.arrangements.pre_norm import FeedForwardPreNorm as FeedForwardPreNorm
from jax_attention.models.arrangements.pre_norm import PreNorm as PreNorm
from jax_attention.models.arrangements.sandwich import MixerSandwich as MixerSandwich
from jax_attention.models.arrangements.sandwich import Sandwich as Sandwich

ARRANGEMENTS = {
    "pre": PreNorm,
    "pre_feed_forward": FeedForwardPreNorm,
    "post": PostNorm,
    "sandwich": Sandwich,
    "sandwich_mixer": MixerSandwich,
    "sandwich_laurel": LaurelSandwich,
    "output": OutputNorm,
    "parallel": Parallel,
    "parallel_shared_norm": ParallelSharedNorm,
}
