r"""Scan of the delta rule over chunks with decay, shared by its gated forms.

$$ U = U_0 - E S, \qquad O = R S + A U, \qquad S \leftarrow \Lambda S + W^\top U $$

| symbol | argument  |                                                                    |
|--------|-----------|--------------------------------------------------------------------|
| S      | `memory`  | state before the chunk                                             |
| U_0    | `change`  | update that an empty state would receive                           |
| E      | `erased`  | keys whose product with the state is subtracted from the update    |
| R      | `read`    | queries, times the decay since the start of the chunk              |
| A      | `scores`  | products of queries and earlier keys, times the decay between them |
| W      | `written` | keys, times the decay until the end of the chunk                   |
| Λ      | `decay`   | decay of the state over the chunk                                  |
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
    *,
    length: int,
) -> tuple[Float[Array, "batch heads key_dim value_dim"], Float[Array, "chunks batch heads size value_dim"]]:
    """Scan the delta rule over chunks, with a decay per head or per channel.

    Args:
        memory: state before the first chunk.
        read: queries, times the decay since the start of the chunk.
        written: keys, times the decay until the end of the chunk.
        scores: products of queries and earlier keys, times the decay between them.
        change: update that an empty state would receive.
        erased: keys whose product with the state is subtracted from the update.
        decay: decay of the state over the chunk.
        length: length of the sequence.

    Returns:
        The state after the last chunk, and the outputs.
    """

    def step(memory: Array, chunk: tuple[Array, ...]) -> tuple[Array, Array]:
        read, written, scores, change, erased, decay = chunk
        change = change - einsum("bhkd,bhdv->bhkv", erased, memory)  # batch heads size value_dim
        output = einsum("bhqd,bhdv->bhqv", read, memory)  # batch heads size value_dim
        output = output + einsum("bhqk,bhkv->bhqv", scores, change)
        return decay * memory + einsum("bhkd,bhkv->bhdv", written, change), output

    return scan(step, memory, (read, written, scores, change, erased, decay), length=length)
