"""Head counts and projections of grouped-query attention."""

from typing import Any, NamedTuple, Unpack

from jax_attention.checks import check_divisible
from jax_attention.layers import Factory, linear


class GroupedHeads(NamedTuple):
    """The heads of grouped-query attention (Ainslie et al. 2023).

    Attributes:
        embed_dim: features of input and output.
        num_heads: number of query heads.
        num_kv_heads: number of key/value heads.
        head_dim: features of a head.
    """

    embed_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def projections(
        self, *, bias: bool, out_bias: bool | None = None, **factory: Unpack[Factory]
    ) -> tuple[Any, Any, Any, Any]:
        """Create the query, key, value and output projections; `out_bias=None` uses `bias` for the output too."""
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        return (
            linear(self.embed_dim, queries, bias=bias, **factory),
            linear(self.embed_dim, keys, bias=bias, **factory),
            linear(self.embed_dim, keys, bias=bias, **factory),
            linear(queries, self.embed_dim, bias=bias if out_bias is None else out_bias, **factory),
        )


def grouped_heads(
    embed_dim: int, num_heads: int, num_kv_heads: int | None = None, head_dim: int | None = None
) -> GroupedHeads:
    """Validate head counts; by default `num_kv_heads = num_heads` and `head_dim = embed_dim / num_heads`.

    Raises:
        ValueError: `num_heads` is not divisible by `num_kv_heads`, or `embed_dim` by `num_heads`.
    """
    num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
    check_divisible(num_heads=num_heads, num_kv_heads=num_kv_heads)
    if head_dim is None:
        check_divisible(embed_dim=embed_dim, num_heads=num_heads)
        head_dim = embed_dim // num_heads
    return GroupedHeads(embed_dim, num_heads, num_kv_heads, head_dim)
