"""Attention over sharded sequences: ring attention and all-to-all attention."""

from torch_attention.ops.distributed.shards import DATA as DATA
from torch_attention.ops.distributed.shards import MODEL as MODEL
from torch_attention.ops.distributed.shards import SEQUENCE as SEQUENCE
from torch_attention.ops.distributed.shards import Shards as Shards
from torch_attention.ops.distributed.shards import over_shards as over_shards
from torch_attention.ops.distributed.shards import shards_of as shards_of
