"""From features to heads and back."""

from einops import rearrange, repeat
from jax import Array
from jaxtyping import Float

from jax_attention.arguments import checked
from jax_attention.checks import check_divisible


@checked
def split_heads(
    x: Float[Array, "batch length features"], head_dim: int
) -> Float[Array, "batch heads length head_dim"]:
    """Cut the features into heads: head h holds features `h * head_dim` to `(h + 1) * head_dim - 1`."""
    check_divisible(features=x.shape[-1], head_dim=head_dim)
    return rearrange(x, "batch length (heads head_dim) -> batch heads length head_dim", head_dim=head_dim)


@checked
def merge_heads(
    heads: Float[Array, "batch heads length head_dim"],
) -> Float[Array, "batch length features"]:
    """Lay the heads side by side again: the inverse of `split_heads`."""
    return rearrange(heads, "batch heads length head_dim -> batch length (heads head_dim)")


@checked
def repeat_heads(
    x: Float[Array, "... kv_heads length head_dim"], num_heads: int
) -> Float[Array, "... heads length head_dim"]:
    """Give each query head its key/value head: h uses `h // (num_heads // num_kv_heads)` (repeat, not tile)."""
    if x.shape[-3] == num_heads:
        return x
    check_divisible(num_heads=num_heads, num_kv_heads=x.shape[-3])
    return repeat(x, "... g length d -> ... (g r) length d", r=num_heads // x.shape[-3])
