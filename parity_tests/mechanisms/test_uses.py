"""Mechanisms under common uses of PyTorch: compiled, exported, transformed, autocast, quantised and adapted."""

import copy

import pytest
import torch
from functorch.compile import nop
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch.utils._python_dispatch import TorchDispatchMode

import torch_attention
from attention_bridge.catalogue import CATALOGUE, select
from attention_bridge.pages.uses import page, torch_uses
from attention_bridge.parity import instances
from attention_bridge.parity.instances import inputs, torch_module
from attention_bridge.parity.run import named_outputs
from attention_bridge.weights.leaves import to_torch
from torch_attention import arrays
from torch_attention.models.experts import MixtureOfExperts
from torch_attention.models.routing import SigmoidRouting
from torch_attention.ops import arrays as triangular

every_mechanism = pytest.mark.parametrize("mechanism", CATALOGUE, ids=lambda each: each.name)
# The others are slow tests.
SAMPLE = (
    "MultiHeadSelfAttention",
    "CausalSelfAttention",
    "ScaledDotProductAttention",
    "GatedLinearAttention",
)
# Inductor takes minutes for all of these: one recurrent class is a slow test.
INDUCTOR = [
    pytest.param(
        x,
        id=x.name,
        marks=pytest.mark.slow if x.name == "LinearAttention" else pytest.mark.survey,
    )
    for x in CATALOGUE
    if x.name in SAMPLE or x.decoding == "state"
]
# As many as fit into `make test`; the others are slow tests.
sampled = pytest.mark.parametrize(
    "mechanism",
    [
        pytest.param(x, marks=[] if i % 5 == 0 or x.name in SAMPLE else [pytest.mark.survey])
        for i, x in enumerate(CATALOGUE)
    ],
    ids=lambda each: each.name,
)
# PyTorch's own convolution has a guard on a batch of 16.
IN_SEVERAL_GRAPHS = {"NystromAttention"}
# Mechanisms that sort scores or take their maximum, to select keys or to find the nonzero weights.
CHOOSING = {
    "SparsemaxAttention",
    "Entmax15Attention",
    "TopKAttention",
    "DeepSeekSparseAttention",
    "NativeSparseAttention",
    "MixtureOfBlockAttention",
    "LSHAttention",
}
NO_LINEAR = "it has no linear layer."


def given_to(mechanism):
    """All inputs of the smallest call, as tensors."""
    return {name: to_torch(x) for name, x in inputs(mechanism, "none").items()}


def in_float32(given):
    return {name: x.float() if x.is_floating_point() else x for name, x in given.items()}


class TestExactLayers:
    @every_mechanism
    def test_layers_are_the_frameworks_own(self, mechanism):
        layers = [
            each
            for each in torch_module(mechanism, "float32").modules()
            if isinstance(each, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Embedding | nn.LayerNorm)
        ]
        assert {type(each) for each in layers} <= {
            nn.Linear,
            nn.Conv1d,
            nn.Conv2d,
            nn.Embedding,
            nn.LayerNorm,
        }

    @every_mechanism
    def test_every_parameters_owner_is_called(self, mechanism):
        module = torch_module(mechanism, "float32")
        called, hooks = set(), []
        for name, each in module.named_modules():
            hook = each.register_forward_hook(lambda *_, name=name: called.add(name))
            hooks.append(hook)
        try:
            module(**in_float32(given_to(mechanism)))
        finally:
            for hook in hooks:
                hook.remove()
        owners = {name.rpartition(".")[0] for name, _ in module.named_parameters()}
        assert owners <= called

    @every_mechanism
    def test_quantize_dynamic_leaves_no_linear_layer(self, mechanism):
        if mechanism.name == "LSHAttention":  # 8 bits move positions to other buckets
            pytest.skip("rounding changes the keys that a query attends to")
        assert torch_uses.quantised(mechanism) in (torch_uses.YES, NO_LINEAR)

    @every_mechanism
    def test_lora_on_each_linear_layer_has_an_effect(self, mechanism):
        assert torch_uses.with_lora(mechanism) in (torch_uses.YES, NO_LINEAR)

    def test_absorbed_latents_are_the_same_with_a_hook_on_the_layer(self):
        (mechanism,) = select(["AbsorbedLatentAttention"])
        module, given = torch_module(mechanism, "float32"), in_float32(given_to(mechanism))
        plain = module(**given).output
        hook = module.kv_b_proj.register_forward_hook(lambda *_: None)
        called = module(**given).output
        hook.remove()
        torch.testing.assert_close(called, plain)


class TestAutocast:
    @sampled
    @pytest.mark.parametrize("use", [torch_uses.in_bfloat16, torch_uses.in_float16])
    def test_output_is_close(self, mechanism, use):
        assert use(mechanism) == torch_uses.YES

    @sampled
    def test_autocast_is_as_precise_as_the_module_in_bfloat16(self, mechanism):
        if "bfloat16" not in mechanism.dtypes:
            pytest.skip("the selection of keys is not proven in bfloat16")
        module, given = torch_module(mechanism, "float32"), in_float32(given_to(mechanism))
        exact = first_output(module(**given))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            lowered = first_output(module(**given))
        low = {name: x.bfloat16() if x.is_floating_point() else x for name, x in given.items()}
        itself = first_output(torch_module(mechanism, "bfloat16")(**low))
        assert distance(lowered, exact) <= 1.5 * distance(itself, exact) + 1e-6

    @every_mechanism
    @pytest.mark.filterwarnings(
        "ignore:Mismatch dtype between input and weight:UserWarning"
    )  # raised once, by RMS norms
    def test_selections_under_autocast_are_those_of_float32(self, mechanism):
        module, given = torch_module(mechanism, "float32"), torch_uses._inputs(mechanism, 4)
        exact = compared(module, given, enabled=False)
        for dtype in (torch.bfloat16, torch.float16):
            lowered = compared(module, given, dtype=dtype)
            assert [x.dtype for x in lowered] == [x.dtype for x in exact]
            assert all(torch.equal(x, y) for x, y in zip(lowered, exact, strict=True))

    def test_recorded_selections_cover_the_sparse_mechanisms(self):
        recorded = {
            each.name
            for each in CATALOGUE
            if each.family in ("sparse", "scores")
            and compared(torch_module(each, "float32"), torch_uses._inputs(each, 0), enabled=False)
        }
        assert recorded == CHOOSING

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_expert_weights_under_autocast_are_those_of_float32(self, dtype):
        torch.manual_seed(0)
        experts = MixtureOfExperts(16, 8, 8, SigmoidRouting(2), shared_dim=8)
        x = torch.randn(2, 200, 16)
        exact = experts.shares(x)
        with torch.autocast("cpu", dtype=dtype):
            torch.testing.assert_close(experts.shares(x), exact, rtol=0, atol=0)


class Compared(TorchDispatchMode):
    """Record the inputs of sort, argmax and top-k, on which selections depend."""

    def __init__(self):
        super().__init__()
        self.numbers = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.overloadpacket in (torch.ops.aten.sort, torch.ops.aten.argmax, torch.ops.aten.topk):
            self.numbers.append(args[0].clone())
        return function(*args, **(kwargs or {}))


def compared(module, given, **autocast):
    with Compared() as found, torch.no_grad(), torch.autocast("cpu", **autocast):
        module(**given)
    return found.numbers


def first_output(result):
    return next(iter(named_outputs(result).values())).detach()


def distance(x, exact):
    return float(((x.float() - exact).norm() / exact.norm()).detach())


class TestFloat16:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("MultiScaleRetention", {}),
            ("GatedLinearAttention", {}),
            ("Mamba2", {"head_dim": 32, "state_dim": 16}),
            ("DeltaNet", {"head_dim": 32}),
            ("GatedDeltaNet", {"head_dim": 32}),
            ("KimiDeltaAttention", {"head_dim": 32}),
        ],
    )
    def test_activations_of_ordinary_size_stay_finite(self, name, options):
        torch.manual_seed(0)
        layer = getattr(torch_attention, name)(64, 2, **options)
        x = 50.0 * torch.randn(1, 100, 64)
        exact = layer(x).output
        assert distance(layer.half()(x.half()).output, exact) < 0.01


# Without shape checks: PyTorch's transformations pass objects that are not arrays of a shape.
@pytest.mark.usefixtures("as_shipped")
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
class TestTransforms:
    @sampled
    @pytest.mark.parametrize("use", [torch_uses.gradient, torch_uses.forward_mode, torch_uses.mapped])
    def test_torch_func(self, mechanism, use):
        assert use(mechanism) == torch_uses.YES

    @sampled
    def test_ensemble_equals_its_members(self, mechanism):
        first, given = torch_module(mechanism, "float32"), torch_uses._inputs(mechanism, 0)
        if not list(first.parameters()):
            pytest.skip("it has no parameters to stack")
        second = copy.deepcopy(first)
        with torch.no_grad():
            for each in second.parameters():
                each.mul_(0.9)

        def loss(parameters, buffers):
            output = torch.func.functional_call(first, (parameters, buffers), kwargs=given)
            return torch.sin(torch_uses._output(output)).sum()

        stacked = torch.func.stack_module_state([first, second])
        slopes, losses = torch.func.vmap(torch.func.grad_and_value(loss))(*stacked)
        for number, module in enumerate((first, second)):
            named = {name: each for name, each in module.named_parameters() if each.requires_grad}
            expected = torch.sin(torch_uses._output(module(**given))).sum()
            single = torch.autograd.grad(expected, list(named.values()), allow_unused=True)
            torch.testing.assert_close(losses[number], expected, rtol=1e-4, atol=1e-4)
            for name, slope in zip(named, single, strict=True):
                if slope is not None:
                    torch_uses._check_same(slopes[name][number], slope)

    @sampled
    def test_masks_and_dropout_masks_can_be_mapped(self, mechanism):
        module, given = torch_module(mechanism, "float32"), torch_uses._inputs(mechanism, 0)
        masks = {**mechanism.masks, **({"dropout_keep": mechanism.keep} if mechanism.keep else {})}
        for name, axes in masks.items():
            several = torch.rand((3, *mechanism.shape(axes))) < 0.7

            def output(mask, name=name):
                return torch_uses._output(module(**given, **{name: mask}))

            expected = torch.stack([output(mask) for mask in several])
            torch_uses._check_same(torch.func.vmap(output)(several), expected)

    def test_gradient_and_hessian_with_a_learned_bias(self):
        (mechanism,) = select(["T5Bias"])
        assert torch_uses.gradient(mechanism) == torch_uses.hessian(mechanism) == torch_uses.YES

    @pytest.mark.survey
    @sampled
    def test_hessian(self, mechanism):
        assert torch_uses.hessian(mechanism) == torch_uses.YES


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # from PyTorch's scan
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
class TestSizes:
    @sampled
    def test_empty_sizes(self, mechanism):
        assert torch_uses.empty_sizes(mechanism) == torch_uses.YES

    # PyTorch does not compile shape checks inside code that it generates; the slow tests run without them.
    @pytest.mark.slow
    @pytest.mark.parametrize(
        "mechanism", select([*SAMPLE, "NativeSparseAttention"]), ids=lambda each: each.name
    )
    def test_one_graph_serves_all_sizes(self, mechanism):
        assert torch_uses.compiled(mechanism) == torch_uses.YES

    def test_one_exported_program_serves_all_sizes(self):
        (mechanism,) = select(["MultiHeadSelfAttention"])
        assert torch_uses.exported(mechanism) == torch_uses.YES

    @pytest.mark.slow
    def test_one_graph_serves_training_at_all_sizes(self):
        (mechanism,) = select(["MultiHeadSelfAttention"])
        torch._dynamo.reset()
        module, graphs = torch_uses._fresh(mechanism).train(), []
        to_graphs = aot_autograd(fw_compiler=nop)

        def backend(graph, inputs):
            made = to_graphs(graph, inputs)
            graphs.append(made)
            return made

        run = torch.compile(module, dynamic=True, fullgraph=True, backend=backend)
        for step in torch_uses.STEPS:
            sizes = {**torch_uses.sizes_at(mechanism, step), "one": 1}
            x = torch_uses._inputs(mechanism, step)["x"].requires_grad_()
            keep = torch.rand([sizes[axis] for axis in mechanism.keep]) < 0.5
            learned = [x, *module.parameters()]
            found, expected = (
                torch.autograd.grad(torch.sin(call(x, dropout_keep=keep).output).sum(), learned)
                for call in (run, module)
            )
            for slope, right in zip(found, expected, strict=True):
                torch_uses._check_same(slope, right)
        assert len(graphs) == 1

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["ShiftedWindowAttention", "SpatialReductionAttention"])
    def test_one_exported_program_serves_grids_that_need_padding(self, name):
        (mechanism,) = select([name])
        assert torch_uses.exported(mechanism) == torch_uses.YES

    @pytest.mark.survey
    @every_mechanism
    def test_every_mechanism_is_one_graph(self, mechanism):
        if mechanism.name in IN_SEVERAL_GRAPHS:
            assert torch_uses.compiled(mechanism).endswith("graphs for 3 sizes.")
        else:
            assert torch_uses.compiled(mechanism) == torch_uses.YES

    @pytest.mark.survey
    @every_mechanism
    def test_every_mechanism_is_one_exported_program(self, mechanism):
        assert torch_uses.exported(mechanism) == torch_uses.YES

    @pytest.mark.parametrize("mechanism", INDUCTOR)
    def test_inductor_gives_the_same_at_all_sizes(self, mechanism):
        torch._dynamo.reset()
        module = torch_module(mechanism, "float32")
        run = torch.compile(module, dynamic=True, fullgraph=True)
        for step in torch_uses.STEPS:
            given = torch_uses._inputs(mechanism, step)
            torch_uses._check_same(run(**given), module(**given))


def in_onnxruntime(layer, traced, x, folder):
    """The first output of a layer for `x`, after an export traced with `traced` and both axes dynamic."""
    import onnxruntime

    torch._dynamo.reset()
    path, shape = folder / "layer.onnx", dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC)
    torch.onnx.export(layer, (traced,), path, dynamo=True, dynamic_shapes=(shape,), verbose=False)
    session = onnxruntime.InferenceSession(path)
    (given,) = session.get_inputs()
    return torch.from_numpy(session.run(None, {given.name: x.numpy()})[0])


@pytest.mark.usefixtures("as_shipped")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # raised by the exporter, about its own code
@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::UserWarning")
class TestONNX:
    @pytest.fixture(autouse=True)
    def needs_the_extra(self):
        for name in ("onnx", "onnxruntime", "onnxscript"):
            pytest.importorskip(name, reason="needs attention-bridge[onnx]")

    @pytest.mark.slow
    @pytest.mark.parametrize("name", ["SelfAttention", "TopKAttention", "MultiScaleRetention", "DeltaNet"])
    def test_onnxruntime_gives_the_same_at_all_sizes(self, name):
        (mechanism,) = select([name])
        assert torch_uses.in_onnx(mechanism) == torch_uses.YES

    @pytest.mark.slow
    def test_recurrence_is_exported_with_gradients_enabled(self, tmp_path):
        layer = torch_attention.LinearAttention(4, 2, chunk_size=2)
        x = torch.randn(3, 8, 4)
        output = in_onnxruntime(layer, torch.ones(2, 5, 4), x, tmp_path)
        torch.testing.assert_close(output, layer(x).output, rtol=0, atol=1e-4)

    @pytest.mark.slow
    @pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
    def test_equal_elements_keep_their_order(self, dtype, tmp_path):
        class Order(nn.Module):
            def forward(self, x):
                return (arrays.stable_order(x),)

        x = torch.randint(0, 2, (3, 200)).to(dtype)
        torch.testing.assert_close(in_onnxruntime(Order(), x[:2, :9], x, tmp_path), arrays.stable_order(x))

    @pytest.mark.survey
    @every_mechanism
    def test_every_mechanism_in_onnx(self, mechanism):
        assert torch_uses.in_onnx(mechanism) == torch_uses.YES


@pytest.mark.parametrize("length", [0, 1, 5])
def test_triangular_system_solved_by_rows_equals_the_direct_solution(length):
    lower, right = torch.randn(2, 3, length, length), torch.randn(2, 3, length, 4)
    found = triangular._substitute(lower, right)
    torch.testing.assert_close(found, triangular.solve_unit_lower(lower, right))


class TestPage:
    def test_reason_is_listed_once_and_referred_to(self, monkeypatch):
        def refuse(mechanism):
            """Never works."""
            return "no."

        monkeypatch.setattr(page, "uses_of", lambda framework: {"a use": refuse})
        text = page.section("PyTorch", select(["SelfAttention", "ALiBi"]))
        assert "| SelfAttention | 1 |\n| ALiBi | 1 |" in text
        assert text.count("1. no.") == 1
        assert "0 of 2" in text

    def test_error_is_a_reason(self):
        def fail(mechanism):
            raise ValueError("first line\nsecond line")

        assert page.answer(fail, CATALOGUE[0]) == "ValueError: first line"


def test_jax_layers_are_the_frameworks_own():
    from flax import nnx

    for name in ("DeltaNet", "LinformerAttention", "Encoder"):
        (mechanism,) = select([name])
        module = instances.jax_module(mechanism, "float32")
        for _, each in nnx.iter_modules(module):
            if isinstance(each, nnx.Linear | nnx.Conv | nnx.Embed):
                assert type(each).__module__.startswith("flax")
