"""Trials of PyTorch's tools on a mechanism, one function per tool.

Each returns `YES` or the reason for a failure in one sentence. Results are compared with the plain call.
"""

import io
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from attention_bridge.catalogue import Mechanism
from attention_bridge.catalogue.part import build
from attention_bridge.pages.uses.examples import (
    BATCH,
    example,
    longest,
    multiple,
    sizes_at,
    smallest,
    varying,
)
from attention_bridge.parity.instances import inputs, torch_module
from attention_bridge.parity.run import is_float, named_outputs
from attention_bridge.weights.leaves import to_torch

YES = "yes"
STEPS = (0, 1, 4)  # sizes at which a tool is tried, as in `sizes_at`
BOUND = 1e-4  # largest difference from the plain call, relative to its largest value
WITH_ROUNDING = {torch.bfloat16: 0.05, torch.float16: 0.01}


def compiled(mechanism: Mechanism) -> str:
    """`torch.compile(dynamic=True, fullgraph=True)`: one graph for all sizes, with equal outputs."""
    graphs = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    module = _module(mechanism)
    run = torch.compile(module, dynamic=True, fullgraph=True, backend=backend)
    for step in STEPS:
        given = _inputs(mechanism, step)
        _check_same(run(**given), module(**given))
    return YES if len(graphs) == 1 else f"{len(graphs)} graphs for {len(STEPS)} sizes."


def exported(mechanism: Mechanism) -> str:
    """`torch.export` with dynamic batch and lengths: the program gives equal outputs at other sizes."""
    module = _module(mechanism)
    program = torch.export.export(
        module, (), _inputs(mechanism, 0), dynamic_shapes=_dynamic_shapes(mechanism)
    )
    for step in STEPS:
        given = _inputs(mechanism, step)
        _check_same(program.module()(**given), module(**given))
    return YES


def in_onnx(mechanism: Mechanism) -> str:
    """`torch.onnx.export(dynamo=True)` in `no_grad`, dynamic sizes: equal outputs at other sizes in onnxruntime."""
    import onnxruntime

    module, given = _module(mechanism), _inputs(mechanism, 0)
    with torch.no_grad():  # gradients through a recurrence make PyTorch's exporter fail
        program = torch.onnx.export(
            _OutputAlone(module, tuple(given)),
            tuple(given.values()),
            dynamo=True,
            dynamic_shapes=(tuple(_dynamic_shapes(mechanism).values()),),
            verbose=False,
        )
    assert program is not None
    buffer = io.BytesIO()
    program.save(buffer)  # type: ignore[arg-type]
    session = onnxruntime.InferenceSession(buffer.getvalue())
    names = [each.name for each in session.get_inputs()]
    for step in STEPS:
        given = _inputs(mechanism, step)
        (output, *_) = session.run(None, dict(zip(names, (x.numpy() for x in given.values()), strict=True)))
        _check_same(torch.from_numpy(output), _output(module(**given)))
    return YES


def gradient(mechanism: Mechanism) -> str:
    """`torch.func.grad` of the input equals the gradient from `torch.autograd.grad`."""
    loss, x = _loss(mechanism)
    learned = x.detach().requires_grad_()
    (right,) = torch.autograd.grad(loss(learned), learned)
    _check_same(torch.func.grad(loss)(x), right)
    return YES


def forward_mode(mechanism: Mechanism) -> str:
    """`torch.func.jvp` along a direction equals the product of direction and gradient."""
    loss, x = _loss(mechanism)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    along: Any = torch.func.jvp(loss, (x,), (direction,))[1]
    _check_same(along, (torch.func.grad(loss)(x) * direction).sum())
    return YES


def hessian(mechanism: Mechanism) -> str:
    """`torch.func.hessian` of two input values equals finite differences of the gradient."""
    loss, x = _loss(mechanism, torch.float64)
    kinds = torch.eye(x.numel(), dtype=x.dtype)[:2].reshape(2, *x.shape)

    def over(numbers: Tensor) -> Tensor:
        return loss(x + torch.tensordot(numbers, kinds, dims=1))

    zeros = torch.zeros(2, dtype=x.dtype)
    found = torch.func.hessian(over)(zeros)
    small = 1e-5 * torch.eye(2, dtype=x.dtype)
    slope = torch.func.grad(over)
    _check_same(found, torch.stack([(slope(e) - slope(-e)) / 2e-5 for e in small]))
    return YES


def mapped(mechanism: Mechanism) -> str:
    """`torch.func.vmap` over a new axis of all inputs equals single calls."""
    module, first, second = _module(mechanism), _inputs(mechanism, 0), _inputs(mechanism, 0, seed=1)
    together = {name: torch.stack([first[name], second[name]]) for name in first}
    found = torch.func.vmap(lambda given: _output(module(**given)))(together)
    _check_same(found, torch.stack([_output(module(**given)) for given in (first, second)]))
    return YES


def in_bfloat16(mechanism: Mechanism) -> str:
    """`torch.autocast` in bfloat16 is close to float32."""
    return _lowered(mechanism, torch.bfloat16)


def in_float16(mechanism: Mechanism) -> str:
    """`torch.autocast` in float16 is close to float32."""
    return _lowered(mechanism, torch.float16)


def quantised(mechanism: Mechanism) -> str:
    """`quantize_dynamic` quantises every linear layer, and the output stays close."""
    module, given = _module(mechanism), _inputs(mechanism, 0)
    layers = [name for name, each in module.named_modules() if isinstance(each, nn.Linear)]
    if not layers:
        return "it has no linear layer."
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated: the successor is a separate package
        made = torch.ao.quantization.quantize_dynamic(module, {nn.Linear}, dtype=torch.qint8)
    left = [name for name in layers if isinstance(made.get_submodule(name), nn.Linear)]
    if left:
        return f"{', '.join(left)} were not quantised."
    _check_same(_output(made(**given)), _output(module(**given)), 0.2)
    return YES


def with_lora(mechanism: Mechanism) -> str:
    """LoRA on each linear layer changes the output, since the layer itself is called."""
    given = {name: to_torch(x) for name, x in inputs(mechanism, "none").items() if not is_float(x)}
    given |= _inputs(mechanism, 0)
    names = [name for name, each in _fresh(mechanism).named_modules() if isinstance(each, nn.Linear)]
    if not names:
        return "it has no linear layer."
    for name in names:
        module = _fresh(mechanism)
        before = named_outputs(module(**given))
        layer = module.get_submodule(name)
        assert isinstance(layer, nn.Linear)
        module.set_submodule(name, _LoRA(layer))
        after = named_outputs(module(**given))
        if all(torch.equal(x, after[part]) for part, x in before.items()) and not _only_chooses(name):
            return f"LoRA on {name} has no effect."
    return YES


def empty_sizes(mechanism: Mechanism) -> str:
    """Batch 0, length 0 and length 1 give outputs of the expected shape and dtype."""
    module = _module(mechanism)
    lengths = [axis for axis in varying(mechanism) if axis != BATCH]
    none, one = dict.fromkeys(lengths, 0), dict.fromkeys(lengths, smallest(mechanism))
    for changed in ({BATCH: 0}, none, one, {BATCH: 0, **none}):
        sizes = {**mechanism.sizes, **changed}
        given = {name: torch.from_numpy(x) for name, x in example(mechanism, sizes).items()}
        output, usual = _output(module(**given)), _output(module(**_inputs(mechanism, 0)))
        axes = next(iter({**mechanism.inputs, **mechanism.tokens}.values()))
        if output.dtype != usual.dtype or output.ndim != usual.ndim or output.shape[0] != sizes[axes[0]]:
            return f"at {changed} it gives {tuple(output.shape)} in {output.dtype}."
        if not bool(output.isfinite().all()):
            return f"at {changed} it gives values that are not finite."
    return YES


USES: dict[str, Callable[[Mechanism], str]] = {
    "torch.compile": compiled,
    "torch.export": exported,
    "ONNX": in_onnx,
    "grad": gradient,
    "jvp": forward_mode,
    "hessian": hessian,
    "vmap": mapped,
    "autocast bfloat16": in_bfloat16,
    "autocast float16": in_float16,
    "quantize_dynamic": quantised,
    "LoRA": with_lora,
    "batch 0, length 0, length 1": empty_sizes,
}


class DiffersError(Exception):
    """The result of a tool differs from the plain call."""


class _OutputAlone(nn.Module):
    """Wrapper that takes positional inputs and returns only the output, without weights and states."""

    def __init__(self, module: nn.Module, names: tuple[str, ...]):
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        return _output(self.module(**dict(zip(self.names, inputs, strict=True))))


class _LoRA(nn.Module):
    """Linear layer with a low-rank adapter of rank 1 (Hu et al. 2021)."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer = layer
        generator = torch.Generator().manual_seed(0)
        self.down = nn.Parameter(torch.randn(1, layer.in_features, generator=generator))
        self.up = nn.Parameter(torch.randn(layer.out_features, 1, generator=generator))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + (x @ self.down.T.to(x.dtype)) @ self.up.T.to(x.dtype)


def _only_chooses(name: str) -> bool:
    """Whether a layer only selects keys, so that a small change need not change the output."""
    return "indexer" in name


def _module(mechanism: Mechanism, dtype: str = "float32") -> nn.Module:
    return torch_module(mechanism, dtype)


def _fresh(mechanism: Mechanism) -> nn.Module:
    """A copy of the module that may be changed."""
    module = build(mechanism.module, "torch_attention", {}).eval()
    module.load_state_dict(_module(mechanism).state_dict())
    return module


@cache
def _arrays(mechanism: Mechanism, step: int) -> dict[str, Tensor]:
    return {name: torch.from_numpy(x) for name, x in example(mechanism, sizes_at(mechanism, step)).items()}


def _inputs(mechanism: Mechanism, step: int, *, seed: int = 0) -> dict[str, Tensor]:
    given = _arrays(mechanism, step)
    return {name: x.flip(0) if seed else x for name, x in given.items()}


def _output(result: Any) -> Tensor:
    return next(iter(named_outputs(result).values()))


def _dynamic_shapes(mechanism: Mechanism) -> dict[str, Any]:
    """The dynamic axes of each input, as `torch.export` takes them."""
    step, free = multiple(mechanism), torch.export.Dim.DYNAMIC
    most = longest(mechanism)
    several = {
        axis: step * torch.export.Dim(f"{axis}_count", min=1, max=None if most is None else most // step)
        if step > 1
        else free
        for axis in varying(mechanism)
    } | {BATCH: free}
    return {
        name: {n: several[axis] for n, axis in enumerate(axes) if axis in several}
        for name, axes in {**mechanism.inputs, **mechanism.tokens}.items()
    }


def _loss(
    mechanism: Mechanism, dtype: torch.dtype = torch.float32
) -> tuple[Callable[[Tensor], Tensor], Tensor]:
    """A smooth scalar loss of the output as a function of the first floating-point input, and that input.

    For a model that reads tokens, the loss is a function of the embedding table.
    """
    module = _module(mechanism, str(dtype).removeprefix("torch."))
    given = {name: x.to(dtype) if x.is_floating_point() else x for name, x in _inputs(mechanism, 0).items()}
    first = next((name for name, x in given.items() if x.is_floating_point()), None)
    if first is not None:
        return lambda x: torch.sin(_output(module(**{**given, first: x}))).sum(), given[first]
    table = next(name for name, _ in module.named_parameters())

    def of_table(x: Tensor) -> Tensor:
        return torch.sin(_output(torch.func.functional_call(module, {table: x}, kwargs=given))).sum()

    return of_table, module.get_parameter(table).detach()


def _lowered(mechanism: Mechanism, dtype: torch.dtype) -> str:
    module, given = _module(mechanism), _inputs(mechanism, 0)
    with warnings.catch_warnings(), torch.autocast("cpu", dtype=dtype):
        warnings.simplefilter("ignore")  # PyTorch's norms warn about a slower kernel
        found = _output(module(**given))
    _check_same(found.float(), _output(module(**given)), WITH_ROUNDING[dtype])
    return YES


def _check_same(found: Any, expected: Any, bound: float = BOUND) -> None:
    """Raise DiffersError unless all arrays of a result equal the expected ones up to rounding."""
    others = named_outputs(expected)
    for name, x in named_outputs(found).items():
        other = others[name]
        if x.shape != other.shape:
            raise DiffersError(f"{name} has shape {tuple(x.shape)} instead of {tuple(other.shape)}.")
        size = float(other.detach().abs().max()) if other.numel() else 0.0
        error = float((x - other).detach().abs().max()) if other.numel() else 0.0
        if not error <= bound * max(size, 1.0):
            raise DiffersError(f"{name} differs by {error:.1e}.")
