"""The doctor's thresholds: how alike rounding and small mistakes look.

`ALIKE` in `attention_bridge.doctor.search` is the share of the squares of a difference that may be left when the
precision that explains it is planted. Here layers are rounded by PyTorch, in every precision that the doctor knows, and
the same layers are given small mistakes that are none of these; the share is measured for both, over sizes and seeds.
`SMALL` in `attention_bridge.parity.measure` is the largest error of 16 bits that is small against the numbers: measured
are the errors of right layers in 16 bits, and of layers with each mistake that the doctor knows.
`LIKELY` in `attention_bridge.doctor.slight` is the share that may be left when a mistake as small as rounding is
planted: right layers in 16 bits are measured, of which no mistake takes much away.

```sh
python -m benchmarks.doctor
```
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_bridge.doctor import SUSPECTS, Setting
from attention_bridge.doctor.case import make_port
from attention_bridge.doctor.layer import compute
from attention_bridge.doctor.sample import take
from attention_bridge.doctor.slight import singles
from attention_bridge.doctor.suspects import ROUNDING, planted
from attention_bridge.parity.measure import error
from parity_tests.helpers import faulty_layers as layers
from parity_tests.helpers.faulty_layers import Case

SEEDS = range(3)
SIZES = ((3, 8, 8), (4, 16, 32), (8, 16, 96))  # heads, head_dim, length
BASE = 10000.0
BITS = {"bfloat16": 7, "TF32": 10}


def cases(seed: int) -> Iterator[tuple[str, Case]]:
    """Layers of several kinds and sizes in float32."""
    for heads, head_dim, length in SIZES:
        generator = torch.Generator().manual_seed(seed)
        draw = lambda *shape, g=generator: torch.randn(*shape, generator=g)  # noqa: E731
        embed = heads * head_dim
        turn = (partial(layers.half_rope, base=BASE),) * 2
        attention = layers.random_weights(draw, heads, heads, head_dim, embed)
        size = f"{heads} heads of {head_dim}, length {length}"
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        yield (
            f"rotary, {size}",
            Case(
                Setting(heads, rope="half", is_causal=True),
                layers.attention,
                {"heads": heads, "kv_heads": heads, "turn": turn},
                attention,
                draw(2, length, embed),
                seen=causal,
            ),
        )
        maps = {"ffn.up_proj": (2 * embed, embed), "ffn.down_proj": (embed, 2 * embed)}
        block = attention | layers.affine(draw, maps)
        for name in ("attention_norm", "ffn_norm"):
            block |= {f"{name}.weight": 1 + draw(embed) / 4, f"{name}.bias": draw(embed) / 4}
        for first in (False, True):
            yield (
                f"{'pre' if first else 'post'}-norm block, {size}",
                Case(
                    Setting(heads, norm_first=first),
                    layers.block,
                    {"heads": heads, "kv_heads": heads, "first": first},
                    block,
                    draw(2, length, embed),
                ),
            )


def rounded_products(bits: int, x: Tensor, *, cut: bool) -> Tensor:
    """The factor with so many bits of its mantissa: the nearest, or those before."""
    drop = 23 - bits
    words = x.contiguous().view(torch.int32)
    if not cut:
        words = words + (1 << (drop - 1)) - 1 + ((words >> drop) & 1)  # to even
    return (words & -(1 << drop)).view(torch.float32)


def roundings(case: Case) -> Iterator[tuple[str, np.ndarray]]:
    """The right layer, run in each precision by PyTorch."""
    for name, bits in BITS.items():
        for cut in (False, True) if name == "TF32" else (False,):
            keep = partial(rounded_products, bits, cut=cut)
            product = lambda a, b, keep=keep: keep(a) @ keep(b)  # noqa: E731
            linear = lambda w, n, x, p=product: p(x, w[f"{n}.weight"].mT) + w[f"{n}.bias"]  # noqa: E731
            yield f"{name} products{', cut' if cut else ''}", case.run(matmul=product, linear=linear)
    for dtype in (torch.bfloat16, torch.float16):
        low = case._replace(weights={k: w.to(dtype) for k, w in case.weights.items()}, x=case.x.to(dtype))
        visible = torch.ones(1, 1, dtype=torch.bool) if case.seen is None else case.seen
        made = low.layer(low.weights, low.x, low.x, visible, **_in(dtype, case.right))
        yield f"{str(dtype).removeprefix('torch.')} model", made.float().numpy()


def _in(dtype: torch.dtype, right: dict[str, Any]) -> dict[str, Any]:
    """The same steps where complex numbers have no such dtype."""
    if "turn" not in right:
        return right
    return {**right, "turn": tuple(lambda x, t=t: t(x.float()).to(dtype) for t in right["turn"])}


def mistakes(case: Case, seed: int) -> Iterator[tuple[str, np.ndarray]]:
    """The right precision, and something else that is a little wrong."""
    reference = case.run()
    for off in (0.001, 0.01):
        yield f"scale {off:.1%} off", case.run(scale=lambda d, off=off: (1 + off) * d**-0.5)
        smaller = {k: w * (1 + off) if k == "v_proj.weight" else w for k, w in case.weights.items()}
        yield f"values {off:.1%} off", case.run(weights=smaller)
    for name in ("q_proj", "v_proj", "out_proj"):
        faint = {**case.weights, f"{name}.bias": case.weights[f"{name}.bias"] * 0.99}
        yield f"1% of the bias of {name} dropped", case.run(weights=faint)
    if "turn" in case.right:
        turn = (partial(layers.half_rope, base=1.1 * BASE),) * 2
        yield "rotary base 10% off", case.run(turn=turn)
    if case.layer is layers.block:
        yield "tanh GELU", case.run(activation=partial(F.gelu, approximate="tanh"))
        for eps in (1e-6, 1e-4, 1e-3):
            yield f"norm eps {eps:.0e}", case.run(norm=partial(layers.layer_norm, eps=eps))
    noise = np.random.default_rng(seed).normal(size=reference.shape).astype(np.float32)
    for size in (1e-4, 1e-3, 1e-2):
        yield f"noise of {size:.0e}", reference + size * float(np.abs(reference).max()) * noise


def exact(case: Case) -> np.ndarray:
    """The right layer in float64."""
    return compute(make_port(**case.given()))


def share(case: Case, outputs: np.ndarray) -> float:
    """What is left of the squares of the difference with the best of the precisions planted."""
    port = make_port(**case.given())
    sample = take(port, outputs.astype(np.float64), exact(case))
    before = sample.squares(compute(sample.port))
    return min(sample.squares(compute(p)) for r in ROUNDING for p in r.plant(sample.port)) / before


def errors_in_16_bits(case: Case) -> tuple[list[float], dict[str, float]]:
    """The errors of the right layer in 16 bits, and of each mistake in the float64 layer."""
    reference, port = exact(case), make_port(**case.given())
    right = [error(made, reference) for name, made in roundings(case) if "model" in name]
    wrong = {
        suspect.name: min(error(np.nan_to_num(compute(each), nan=1e9), reference) for each in ports)
        for suspect in SUSPECTS
        if suspect not in ROUNDING and (ports := planted(replace(port), (suspect,)))
    }
    return right, wrong


def least_share(case: Case) -> list[float]:
    """Of right layers in 16 bits: the least that a known mistake leaves of the squares."""
    truth, port = exact(case), make_port(**case.given())
    found = []
    for name, made in roundings(case):
        if "model" in name:
            sample = take(port, made.astype(np.float64), truth)
            whole = sample.squares(compute(sample.port))
            groups = singles(sample, name.partition(" ")[0])
            found.append(
                min(sample.squares(compute(p)) / whole for g in groups for p in planted(sample.port, g))
            )
    return found


def _line(name: str, numbers: list[float]) -> str:
    low, middle, high = np.quantile(numbers, [0.0, 0.5, 1.0])
    return f"{name:<36} {low:8.1e} {middle:8.1e} {high:8.1e}  ({len(numbers)})"


def main() -> None:
    """Print both experiments."""
    groups: dict[str, Callable[[Case, int], Iterator[tuple[str, np.ndarray]]]] = {
        "rounded": lambda case, seed: roundings(case),
        "mistaken": mistakes,
    }
    right, wrong = [], []
    print(f"{'share of the squares that is left':<36} {'least':>8} {'median':>8} {'most':>8}")
    for name, group in groups.items():
        found: dict[str, list[float]] = {}
        for seed in SEEDS:
            for _, case in cases(seed):
                for kind, outputs in group(case, seed):
                    found.setdefault(kind, []).append(share(case, outputs))
        print(*(_line(kind, numbers) for kind, numbers in found.items()), sep="\n")
        print(_line(f"all that is {name}", [x for numbers in found.values() for x in numbers]))
    for seed in SEEDS:
        for _, case in cases(seed):
            of_right, of_wrong = errors_in_16_bits(case)
            right += of_right
            wrong += of_wrong.values()
    print(f"\n{'error':<36} {'least':>8} {'median':>8} {'most':>8}")
    print(_line("right layers in 16 bits", right))
    print(_line("layers with a known mistake", wrong))
    print(f"of these {np.mean([x <= 0.1 for x in wrong]):.0%} err by at most 0.1")
    shares = [share for seed in SEEDS for _, case in cases(seed) for share in least_share(case)]
    print(_line("least share that a mistake leaves", shares))


if __name__ == "__main__":
    main()
