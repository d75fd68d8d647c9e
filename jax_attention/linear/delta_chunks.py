r"""The delta rule from chunk to chunk, with a memory that fades: what its gated forms share.

$$ U = U_0 - E S, \qquad O = R S + A U, \qquad S \leftarrow \Lambda S + W^\top U $$

| symbol | argument  |                                                                    |
|--------|-----------|--------------------------------------------------------------------|
| S      | `memory`  | before the chunk                                                   |
| U_0    | `change`  | what would be written, were the memory empty                       |
| E      | `erased`  | keys, as they correct what is written for what the memory holds    |
| R      | `read`    | queries, as they meet what is left of the memory                   |
| A      | `scores`  | queries times the keys before them, after their decay              |
| W      | `written` | keys, as they are left at the end of the chunk                     |
| Λ      | `decay`   | what is left of the memory at the end of the chunk                 |
"""

from jax import Array
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.arrays import einsum
from jax_attention.ops import scan


@checked
def scan_decayed_chunks(
    memory: Float[Array, "batch heads key_dim value_dim"],
    read: Float[Array, "chunks batch heads size key_dim"],
    written: Float[Array, "chunks batch heads size key_dim"],
    scores: Float[Array, "chunks batch heads size size"],
    change: Float[Array, "chunks batch heads size value_dim"],
    erased: Float[Array, "chunks batch heads size key_dim"],
    decay: Float[Array, "chunks batch heads #key_dim 1"],
) -> tuple[Float[Array, "batch heads key_dim value_dim"], Float[Array, "chunks batch heads size value_dim"]]:
    """The recurrence from chunk to chunk, for decays of any kind.

    Args:
        memory: before the first chunk.
        read: queries, as what is left of the memory at the start of the chunk meets them.
        written: keys, as they will be left at the end of the chunk.
        scores: queries times the keys before them, after their decay.
        change: what is written, were the memory empty at the start of the chunk.
        erased: what it is lowered by for what the memory holds.
        decay: what is left of the memory after the chunk.

    Returns:
        The memory after the last chunk, and what was read.
    """

    def step(memory: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        read, written, scores, change, erased, decay = chunk
        change = change - einsum("bhkd,bhdv->bhkv", erased, memory)  # batch heads size value_dim
        output = einsum("bhqd,bhdv->bhqv", read, memory)  # batch heads size value_dim
        output = output + einsum("bhqk,bhkv->bhqv", scores, change)
        return decay * memory + einsum("bhkd,bhkv->bhdv", written, change), output

    return scan(step, memory, (read, written, scores, change, erased, decay))
