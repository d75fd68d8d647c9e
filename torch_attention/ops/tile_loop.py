r"""Blockwise attention with an online softmax: the scores of a tile are not stored, so memory is linear in the length.

$$ m' = \max(m, \max_j s_j), \qquad \ell' = e^{m - m'} \ell + \sum_j e^{s_j - m'}, \qquad
   a' = e^{m - m'} a + \sum_j e^{s_j - m'} v_j, \qquad o = a / \ell $$

The softmax of a row is accumulated over its tiles: m is the largest score so far, ℓ is the sum of exponentials, and a
is the sum of values weighted by these exponentials, both relative to m (Milakov & Gimelshein 2018; Rabe & Staats 2021).
The backward pass recomputes the scores (Dao et al. 2022). It needs only m and ℓ of each row, and the output before it
is rounded to 16 bits; m and ℓ are saved separately, because the logsumexp m + log ℓ would lose digits:

$$ p_j = e^{s_j - m} / \ell, \qquad \partial v_j = p_j\, \partial o, \qquad
   \partial s_j = p_j \left(\partial o^\top v_j - \partial o^\top o\right) $$
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

from torch_attention.arrays import einsum
from torch_attention.ops.rules import Place, Rule
from torch_attention.ops.softmax import at_least_float32
from torch_attention.ops.tiles import Fixed, Learned, Plan, Tile, cut


def attend_tiles(
    plan: Plan, learned: Learned, fixed: Fixed
) -> tuple[
    Float[Tensor, "batch kv_heads group query value_dim"], Float[Tensor, "batch kv_heads group query"]
]:
    """Output and logsumexp of each query; the logsumexp of fully masked rows is -inf."""
    # Without gradients, the compiler mistakes the first argument of `apply` for a context.
    has_gradients = torch.is_grad_enabled() and any(
        x is not None and x.requires_grad for x in (*learned[:5], *learned.arrays)
    )
    without = torch.compiler.is_compiling() and not has_gradients
    output, log_sum, _, _ = (_Attend.forward if without else _Attend.apply)(
        plan, fixed.tiling, fixed.mask, fixed.keep, fixed.known, *learned[:5], *learned.arrays
    )
    return output.to(learned.query.dtype), log_sum


class _Attend(torch.autograd.Function):
    """`attend_tiles` with flat arguments, as `torch.autograd.Function` needs them."""

    generate_vmap_rule = True

    @staticmethod
    def forward(plan, tiling, mask, keep, known, query, key, value, bias, sinks, *arrays):  # type: ignore[no-untyped-def]
        fixed = Fixed(tiling, mask, keep, known)
        wide = at_least_float32(query).dtype
        outputs, tops, parts = [], [], []
        for i, row in enumerate(tiling):
            asked = plan.rule.scale * cut(query, -2, i, plan.rows).to(
                wide
            )  # batch kv_heads group row head_dim
            top = torch.full_like(asked[..., 0], -torch.inf)
            total = torch.zeros_like(top)  # batch kv_heads group row
            read = asked.new_zeros(*asked.shape[:-1], value.shape[-1])  # batch kv_heads group row value_dim
            for live in row:
                at = Tile(plan, fixed, i, live)
                products = einsum("bgrqd,bgkd->bgrqk", asked, at.columns(key, dtype=wide))
                place = at.place(query, key)
                scores = at.hidden(
                    plan.rule.score(products, None if bias is None else at.of(bias), arrays, known, place),
                    place,
                )
                new_top = torch.maximum(top, scores.amax(-1))
                level = torch.where(new_top == -torch.inf, 0.0, new_top)  # -inf - -inf is NaN
                shares = torch.exp(scores - level[..., None])
                fade = torch.exp(top - level)
                top, total = new_top, fade * total + shares.sum(-1)
                here = einsum("bgrqk,bgkd->bgrqd", at.kept(shares), at.columns(value, dtype=wide))
                read = fade[..., None] * read + here
            if sinks is not None:
                sink = sinks[..., None].to(wide)
                level = torch.maximum(top, sink)
                level = torch.where(level == -torch.inf, 0.0, level)  # -inf - -inf is NaN
                fade = torch.exp(top - level)
                top, total, read = level, fade * total + torch.exp(sink - level), fade[..., None] * read
            seen = total > 0
            part = torch.where(seen, 1.0 / torch.where(seen, total, 1.0), 0.0)
            outputs.append(part[..., None] * read)
            tops.append(torch.where(seen, top, 0.0))
            parts.append(part)
        output, top, part = torch.cat(outputs, -2), torch.cat(tops, -1), torch.cat(parts, -1)
        log_sum = torch.where(part > 0, top - torch.log(torch.where(part > 0, part, 1.0)), -torch.inf)
        return output, log_sum, top, part

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        plan, tiling, mask, keep, known, *learned = inputs
        output, log_sum, top, part = output
        ctx.mark_non_differentiable(top, part)
        found, ctx.shape_of_known = tree_flatten(known)
        ctx.plan, ctx.tiling, ctx.known = plan, tiling, [None if isinstance(x, Tensor) else x for x in found]
        arrays = [x if isinstance(x, Tensor) else None for x in found]
        ctx.save_for_backward(*arrays, mask, keep, *learned, output, log_sum, top, part)

    @staticmethod
    def backward(ctx, d_output, d_log_sum, *_):  # type: ignore[no-untyped-def]
        plan, tiling = ctx.plan, ctx.tiling
        count = len(ctx.known)
        found, saved = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        known = [x if array is None else array for x, array in zip(ctx.known, found, strict=True)]
        mask, keep, query, key, value, bias, sinks, *arrays, output, log_sum, top, part = saved
        fixed = Fixed(tiling, mask, keep, tree_unflatten(known, ctx.shape_of_known))
        wide = top.dtype
        # Top and part have no gradient; this factor of 1 carries it, for derivatives of this gradient.
        part = part * torch.exp(torch.where(part > 0, log_sum.detach() - log_sum, 0.0))
        # Subtracted from the gradient of every score, because the weights of a row sum to one.
        d_log_sum = torch.where(part > 0, d_log_sum, 0.0)  # fully masked rows have no gradient
        mean = (d_output * output).sum(-1) - d_log_sum
        d_queries: list[Tensor] = []
        d_keys: dict[int, Tensor] = {}
        d_values: dict[int, Tensor] = {}
        d_bias: dict[tuple[int, int], Tensor] = {}
        d_arrays = [torch.zeros_like(x) for x in arrays]
        for i, row in enumerate(tiling):
            asked = plan.rule.scale * cut(query, -2, i, plan.rows).to(wide)
            d_read = cut(d_output, -2, i, plan.rows)
            level, per, off, further = (
                cut(x[..., None], -2, i, plan.rows) for x in (top, part, mean, d_log_sum)
            )
            d_asked = torch.zeros_like(asked)
            for live in row:
                at, j = Tile(plan, fixed, i, live), live.column
                place = at.place(query, key)
                products = einsum("bgrqd,bgkd->bgrqk", asked, at.columns(key, dtype=wide))
                score = partial(_score, plan.rule, fixed.known, place, bias is not None)
                of_bias = [] if bias is None else [at.of(bias)]
                scores, pull = torch.func.vjp(score, products, *of_bias, *arrays)  # type: ignore[misc]
                shares = torch.exp(at.hidden(scores, place) - level) * per
                d_shares = at.kept(einsum("bgrqd,bgkd->bgrqk", d_read, at.columns(value, dtype=wide)))
                if len(row) == 1:  # rounds as in the reference implementation
                    off = (shares * d_shares).sum(-1, keepdim=True) - further
                d_products, *d_others = pull(shares * (d_shares - off))
                d_asked = d_asked + einsum("bgrqk,bgkd->bgrqd", d_products, at.columns(key, dtype=wide))
                _add(d_keys, j, einsum("bgrqk,bgrqd->bgkd", d_products, asked))
                _add(d_values, j, einsum("bgrqk,bgrqd->bgkd", at.kept(shares), d_read))
                if bias is not None:
                    _add(d_bias, at.number(bias), d_others.pop(0))
                d_arrays = [x + y for x, y in zip(d_arrays, d_others, strict=True)]
            d_queries.append(plan.rule.scale * d_asked)
        d_sinks = None
        if sinks is not None:
            shares = torch.exp(sinks[..., None].to(wide) - top) * part  # batch kv_heads group query
            d_sinks = -(shares * mean).sum((0, 3)).to(sinks.dtype)
        return (
            *(None,) * 5,
            torch.cat(d_queries, -2).to(query.dtype),
            _along(d_keys, key, plan.columns),
            _along(d_values, value, plan.columns),
            None if bias is None else _plane(d_bias, bias, plan),
            d_sinks,
            *d_arrays,
        )


def _score(rule: Rule, known: Any, place: Place, has_bias: bool, products: Tensor, *others: Tensor) -> Tensor:
    bias, arrays = (others[0], others[1:]) if has_bias else (None, others)
    return rule.score(products, bias, arrays, known, place)


def _add(found: dict[Any, Tensor], number: Any, part: Tensor) -> None:
    found[number] = found[number] + part if number in found else part


def _along(found: dict[int, Tensor], x: Tensor, size: int) -> Tensor:
    """Concatenate the gradients of keys or values over the tiles; zero for tiles that were not visited."""
    parts = [
        found[j].to(x.dtype) if j in found else torch.zeros_like(cut(x, -2, j, size))
        for j in range(-(-x.shape[-2] // size))
    ]
    return torch.cat(parts, -2)


def _plane(found: dict[tuple[int, int], Tensor], bias: Tensor, plan: Plan) -> Tensor:
    """Assemble the gradient of a bias from its tiles; zero for tiles that were not visited."""
    rows = []
    for i in range(-(-bias.shape[-2] // plan.rows)):
        across = cut(bias, -2, i, plan.rows)
        parts = [
            found[i, j].to(bias.dtype)
            if (i, j) in found
            else torch.zeros_like(cut(across, -1, j, plan.columns))
            for j in range(-(-bias.shape[-1] // plan.columns))
        ]
        rows.append(torch.cat(parts, -1))
    return torch.cat(rows, -2)
