"""Attention over sharded sequences: ring attention and all-to-all attention."""

from jax_attention.ops.distributed.shards import DATA as DATA
from jax_attention.ops.distributed.shards import MODEL as MODEL
from jax_attention.ops.distributed.shards import SEQUENCE as SEQUENCE
from jax_attention.ops.distributed.shards import Shards as Shards
from jax_attention.ops.distributed.shards import over_shards as over_shards
from jax_attention.ops.distributed.shards import shards_of as shards_of
