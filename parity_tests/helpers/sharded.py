"""The cases of `test_sharding.py`, computed on several devices in separate processes.

`python -m parity_tests.helpers.sharded jax PATH` runs them on 8 virtual devices, `torch` in 4 processes that
communicate through gloo. Outputs and gradients are saved in PATH.
"""

import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 in numpy
import numpy as np

from attention_bridge.pretrained.families.describe import model_spec
from parity_tests.helpers import described, hybrids

BATCH, HEADS, KV_HEADS, QUERY, KEY, HEAD_DIM, VALUE_DIM = 2, 8, 4, 16, 24, 5, 7
PAIRS = (BATCH, HEADS, QUERY, KEY)


def draw(*shape, seed=0):
    """Reproducible random values."""
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def visible(*shape):
    """A random mask with a fully masked row."""
    mask = np.random.default_rng(3).random(shape) < 0.6
    mask[-1, ..., 2, :] = False
    return mask


def bias():
    """A bias of -inf for some keys, and for all keys of one query."""
    return np.where(visible(1, HEADS, QUERY, KEY), draw(1, HEADS, QUERY, KEY), -np.inf)


CALLS: dict[str, dict[str, Any]] = {
    "all keys": {},
    "causal": {"is_causal": True, "query_offset": 3},
    "window": {"is_causal": True, "window": 5, "query_offset": 8},
    "masks": {"mask": visible(BATCH, QUERY, KEY), "is_causal": True, "query_offset": 4},
    "everything": {
        "mask": visible(BATCH, 1, QUERY, KEY),
        "bias": bias(),
        "sinks": draw(HEADS),
        "softcap": 2.0,
        "scale": 0.3,
        "dropout_keep": np.random.default_rng(5).random(PAIRS) < 0.8,
        "dropout_rate": 0.2,
    },
}
LEARNED = ("query", "key", "value", "bias", "sinks")
SCHEMES = {"ring": "ring", "all_to_all": "all_to_all", "left to itself": None}
# Calls with ring attention in other dtypes than float64.
NARROW = {"window": "bfloat16", "everything": "float32"}
# Deliberate faults: a module of `ops.distributed` and the function in it that is replaced.
CONTROLS = {
    "keys come from the wrong neighbour": ("ring", "_source"),
    "keys are not passed on": ("ring", "pass_on"),
    "heads are not exchanged": ("exchange", "exchange"),
}
MESHES: dict[str, dict[str, dict[str, int]]] = {
    "jax": {
        "data": {"data": 8},
        "model": {"data": 2, "model": 4},
        "sequence": {"sequence": 8},
        "all": {"data": 2, "model": 2, "sequence": 2},
    },
    "torch": {
        "data": {"data": 4},
        "model": {"model": 4},
        "sequence": {"sequence": 4},
        "all": {"sequence": 2, "model": 2},
    },
}
# The meshes of each call; the most important calls use several.
MESHES_OF_CALLS = {
    "all keys": ("data", "model", "sequence"),
    "causal": ("sequence",),
    "window": ("sequence",),
    "masks": ("all",),
    "everything": ("sequence", "all"),
}
CALLED = [
    (name, mesh, scheme)
    for name, meshes in MESHES_OF_CALLS.items()
    for mesh in meshes
    for scheme in SCHEMES
    if (mesh in ("data", "model")) == (scheme == "left to itself")
]

# Placements of a viewed array before and after redistribution, and of both sides of a triangular system.
VIEWED = list(product(("partial", "whole", 0, 1, 2, 3), ("whole", 0, 1, 2, 3)))
SOLVED = list(product(("whole", 0, 1), repeat=2))
# Operations along a sharded axis.
ALONG = {
    "cumsum": lambda x, axis: x.cumsum(axis),
    "cumprod": lambda x, axis: x.cumprod(axis),
    "logcumsumexp": lambda x, axis: x.logcumsumexp(axis),
    "unbind": lambda x, axis: x.unbind(axis)[1],
}


def operands():
    """An array to view, and a triangular system."""
    return draw(4, 4, 8, 8), (draw(4, 8, 3, 3), draw(4, 8, 3, 5))


TEXTS, LENGTH, VOCAB = 8, 16, 11
SIZES = {
    "vocab_size": VOCAB,
    "embed_dim": 12,
    "num_heads": 4,
    "num_layers": 2,
    "ffn_dim": 20,
    "max_len": LENGTH,
}


@dataclass(frozen=True)
class Model:
    """A model and its inputs.

    Attributes:
        made: builds the model from the names of a mirror and further constructor arguments.
        inputs: arrays by name; the first axis is the batch, the second the sequence.
        whole: inputs whose sequence axis is not sharded, because DTensor cannot index a position on a sharded axis.
    """

    made: Any
    inputs: dict[str, np.ndarray]
    whole: tuple[str, ...] = ()

    def axes(self, name):
        """The mesh axes over which an input is sharded."""
        return ("data",) if name in (*self.whole, "image", "source_mask", "mask") else ("data", "sequence")


def tokens(seed, length=LENGTH):
    """Random token numbers of a batch."""
    return np.random.default_rng(seed).integers(0, VOCAB, (TEXTS, length))


def padded(length=LENGTH):
    """A mask of a batch whose texts have different lengths."""
    return (np.arange(length) < np.arange(length - TEXTS, length)[:, None])[:, None, None]


def _rotary(m, f):
    heads, sizes = described.Heads(12, 4, 2, 6, qk_norm=True), {"num_layers": 2, "ffn_dim": 20}
    return described.made(described.rotary(heads, vocab_size=VOCAB, windows=(5, None), **sizes), m, f)


def _parallel(m, f):
    heads, sizes = described.Heads(12, 4, 2, 6), {"num_layers": 1, "ffn_dim": 20}
    return described.made(described.parallel(heads, 4, vocab_size=VOCAB, **sizes), m, f)


def _latent(m, f):
    experts = described.experts(4, 2, 8, num_groups=2, num_chosen_groups=1)
    sizes = {"num_layers": 2, "ffn_dim": 20, "num_dense_layers": 1}
    spec = described.latent((12, 4, 5, 6, 4, 2, 8), experts, vocab_size=VOCAB, **sizes)
    return described.made(spec, m, f)


def _hybrid(*layers):
    """A model with different kinds of layers."""
    spec = model_spec(VOCAB, 12, layers, norm=hybrids.NORM)
    return lambda m, f: described.made(spec, m, f)


def _image(m):
    return m.VisionTransformerConfig((6, 10), (2, 2), 3, 12, 4, 1, 20, num_classes=7)


def _contrastive(m, f):
    return m.ContrastiveModel(m.ContrastiveConfig(m.DecoderConfig(**SIZES), _image(m), 5), **f)


def _classes(m, f):
    head = m.Part("SequenceClassifier", {"num_classes": 5})
    return m.TaskModel(m.TaskSpec(m.EncoderConfig(**SIZES), head), **f)


def _memory(name, options):
    """A single recurrent layer, which also returns its state."""
    inputs = {"x": draw(TEXTS, LENGTH, 16), "mask": padded()}
    return Model(lambda m, f: getattr(m, name)(16, **options, **f), inputs)


FOUR_HEADS = {"num_heads": 4, "chunk_size": 4}


DELTA = {**FOUR_HEADS, "head_dim": 5, "value_dim": 3}
# Every mechanism that decodes with a state.
MEMORIES = {
    name: _memory(name, options)
    for name, options in {
        "LinearAttention": FOUR_HEADS,
        "PerformerAttention": {**FOUR_HEADS, "num_features": 7},
        "MultiScaleRetention": FOUR_HEADS,
        "GatedLinearAttention": {**FOUR_HEADS, "value_dim": 8, "gate_rank": 4},
        "DeltaNet": DELTA,
        "GatedDeltaNet": {**DELTA, "num_value_heads": 8},
        "KimiDeltaAttention": {**DELTA, "rank": 5},
        "Mamba2": {**FOUR_HEADS, "head_dim": 5, "state_dim": 3, "num_groups": 2},
        "GatedShortConvolution": {},
    }.items()
}
SOURCE, FRAMES = 8, 32
SEQUENCES = {"source": tokens(1, SOURCE), "target": tokens(2), "source_mask": padded(SOURCE)}
IMAGES = draw(TEXTS, 6, 10, 3)
MODELS: dict[str, Model] = {
    "Decoder": Model(
        lambda m, f: m.Decoder(m.DecoderConfig(**SIZES), **f), {"tokens": tokens(0), "mask": padded()}
    ),
    "rotary decoder": Model(_rotary, {"tokens": tokens(0)}),
    "Encoder": Model(
        lambda m, f: m.Encoder(m.EncoderConfig(**SIZES), **f), {"tokens": tokens(0), "mask": padded()}
    ),
    "EncoderDecoder": Model(
        lambda m, f: m.EncoderDecoder(
            m.EncoderDecoderConfig(VOCAB, 12, m.StackConfig(1, 4, 20), m.StackConfig(1, 4, 20), LENGTH), **f
        ),
        SEQUENCES,
    ),
    "VisionTransformer": Model(lambda m, f: m.VisionTransformer(_image(m), **f), {"image": IMAGES}),
    "parallel decoder": Model(
        _parallel,
        {"tokens": tokens(0)},
    ),
    "latent decoder": Model(_latent, {"tokens": tokens(0)}),
    "memory, then gated attention": Model(
        _hybrid(hybrids.delta_layer, hybrids.gated_layer), {"tokens": tokens(0)}
    ),
    "state space, window, latents": Model(
        _hybrid(hybrids.mamba_layer, hybrids.window_layer, hybrids.latent_layer), {"tokens": tokens(0)}
    ),
    "RelativeEncoderDecoder": Model(
        lambda m, f: m.RelativeEncoderDecoder(
            m.RelativeEncoderDecoderConfig(VOCAB, 12, 4, 6, 1, 1, 20, gated=True), **f
        ),
        SEQUENCES,
    ),
    "SpeechTransformer": Model(
        lambda m, f: m.SpeechTransformer(
            m.SpeechConfig(
                VOCAB, 5, 12, m.StackConfig(1, 4, 20), m.StackConfig(1, 4, 20), FRAMES // 2, LENGTH
            ),
            **f,
        ),
        {"source": draw(TEXTS, FRAMES, 5), "target": tokens(2)},
    ),
    "ContrastiveModel": Model(_contrastive, {"tokens": tokens(0), "image": IMAGES}, whole=("tokens",)),
    "encoder with classes": Model(_classes, {"inputs": tokens(0), "mask": padded()}),
    **MEMORIES,
}
ON_ALL_MESHES = ("rotary decoder", "EncoderDecoder")
# The other models run on few meshes: with two axes, DTensor searches long for the cheapest redistribution.
FEW_MESHES = {"jax": ("all",), "torch": ("model",)}
# Additional meshes of single models.
MORE_MESHES: dict[tuple[str, str], tuple[str, ...]] = {
    ("jax", "model"): ("encoder with classes",),
    ("torch", "sequence"): (
        "Decoder",
        "Encoder",
        "SpeechTransformer",
        "encoder with classes",
        "memory, then gated attention",
        "state space, window, latents",
        *MEMORIES,
    ),
}
PLACED = [
    (mirror, name, mesh)
    for mirror, meshes in MESHES.items()
    for name in MODELS
    for mesh in meshes
    if name in ON_ALL_MESHES or mesh in FEW_MESHES[mirror] or name in MORE_MESHES.get((mirror, mesh), ())
]


def given(call, dtype="float64"):
    """The differentiable arrays of a call, its other options, and the cotangent of its output.

    Values are rounded to `dtype` and stored as float64.
    """
    options = dict(CALLS[call])
    arrays = {
        "query": draw(BATCH, HEADS, QUERY, HEAD_DIM),
        "key": draw(BATCH, KV_HEADS, KEY, HEAD_DIM, seed=1),
        "value": draw(BATCH, KV_HEADS, KEY, VALUE_DIM, seed=2),
    }
    arrays |= {name: options.pop(name) for name in LEARNED if name in options}
    arrays = {name: x.astype(dtype).astype(np.float64) for name, x in arrays.items()}
    return arrays, options, draw(BATCH, HEADS, QUERY, VALUE_DIM, seed=4).astype(dtype).astype(np.float64)


AXES = dict.fromkeys(("query", "key", "value"), ("data", "model", "sequence"))  # of the arguments of a call


def names(mirror):
    """All names of a mirror and of its `models`."""
    package, models = import_module(f"{mirror}_attention"), import_module(f"{mirror}_attention.models")
    return SimpleNamespace(**{**vars(package), **vars(models)})


def weights(name):
    """Random float64 weights of a model, by their PyTorch names."""
    import torch

    with torch.device("meta"):
        state = MODELS[name].made(names("torch"), {}).state_dict()
    return {
        key: np.asarray(0.4 * draw(*x.shape, seed=number)) for number, (key, x) in enumerate(state.items())
    }


def wrong(name, module):
    """A faulty replacement for a function of ring attention or of the all-to-all exchange."""
    if name == "_source":
        return lambda plan, hops: (module.own_number(plan.shards) + hops) % module.device_count(plan.shards)
    if name == "pass_on":
        return lambda held, shards: held
    return lambda x, shards, parted, joined: x


@contextmanager
def broken(mirror, control):
    """A context in which a function of an implementation is faulty."""
    file, name = CONTROLS[control]
    module = import_module(f"{mirror}_attention.ops.distributed.{file}")
    before = getattr(module, name)
    setattr(module, name, wrong(name, module))
    try:
        yield
    finally:
        setattr(module, name, before)


def all_results(mirror, call, model):
    """The results of every case, from functions that run one call and one model."""
    found = {}
    for name, mesh, scheme in CALLED:
        sizes = MESHES[mirror][mesh]
        found |= {f"{name}/{mesh}/{scheme}/{key}": x for key, x in call(name, sizes, SCHEMES[scheme]).items()}
    for name, dtype in NARROW.items():
        results = call(name, MESHES[mirror]["sequence"], "ring", dtype)
        found |= {f"{name}/{dtype}/{key}": x for key, x in results.items()}
    for control, (file, _) in CONTROLS.items():
        with broken(mirror, control):
            scheme = "ring" if file == "ring" else "all_to_all"
            results = call("causal", MESHES[mirror]["sequence"], scheme)
        found |= {f"{control}/{key}": x for key, x in results.items()}
    for framework, name, mesh in PLACED:
        if framework == mirror:
            found |= {f"{name}/{mesh}/{key}": x for key, x in model(name, MESHES[mirror][mesh]).items()}
    return found


def in_jax():
    """Every case on 8 virtual devices."""
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    import jax.numpy as jnp
    from flax import nnx

    from attention_bridge.parity.run import arguments_in_jax, forward_backward
    from attention_bridge.weights import convert, transfer
    from attention_bridge.weights.containers import open_container
    from jax_attention import dot_product_attention
    from jax_attention.sharding import make_mesh, on_mesh, shard, shard_model

    def call(name, sizes, implementation, dtype="float64"):
        arrays, options, cotangent = given(name, dtype)
        mesh = make_mesh(sizes)

        def loss(arrays, options):
            output = dot_product_attention(**arrays, **fixed, **options, implementation=implementation)
            return (output * jnp.asarray(cotangent, dtype)).sum(), output

        fixed = {key: x for key, x in options.items() if not isinstance(x, np.ndarray)}
        options = {key: jnp.asarray(x) for key, x in options.items() if isinstance(x, np.ndarray)}
        with on_mesh(mesh):
            arrays = {
                key: shard(jnp.asarray(x, dtype), mesh, *AXES.get(key, ())) for key, x in arrays.items()
            }
            gradients, output = jax.jit(jax.grad(loss, has_aux=True))(arrays, options)
        return {"output": output} | gradients

    def model(name, sizes):
        mesh = make_mesh(sizes)
        made = MODELS[name].made(names("jax"), {"rngs": nnx.Rngs(0), "param_dtype": "float64"})
        made.eval()
        shard_model(transfer(weights(name), made), mesh)
        graphdef, parameters, rest, floats, others, *settings = arguments_in_jax(made, MODELS[name].inputs)
        floats, others = (
            {key: shard(x, mesh, *MODELS[name].axes(key)) for key, x in arrays.items()}
            for arrays in (floats, others)
        )
        with on_mesh(mesh):
            outputs, (gradients, of_inputs) = forward_backward(
                graphdef, parameters, rest, floats, others, *settings
            )
        flat = {key: np.asarray(x) for key, x in open_container(gradients).leaves.items()}
        return outputs | of_inputs | convert(flat, "jax_attention", "torch_attention")[0]

    found = all_results("jax", call, model)
    return {key: np.asarray(x, "float32" if x.dtype == "bfloat16" else x.dtype) for key, x in found.items()}


def whole(x):
    """A PyTorch tensor, gathered if it is sharded."""
    return x.full_tensor() if hasattr(x, "full_tensor") else x


def outputs_and_gradients(made, inputs):
    """Outputs of a PyTorch module, and the gradients of its inputs and parameters, by name."""
    import torch

    from attention_bridge.parity.run import cotangent, named_outputs

    leaves = {
        key: x.requires_grad_() for key, x in inputs.items() if torch.is_tensor(x) and x.is_floating_point()
    }
    leaves |= dict(made.named_parameters())
    outputs = {key: whole(x) for key, x in named_outputs(made(**inputs)).items()}
    counted = [(x * torch.from_numpy(cotangent(tuple(x.shape)))).sum() for x in outputs.values()]
    gradients = torch.autograd.grad(counted, list(leaves.values()), materialize_grads=True)
    return outputs | {key: whole(x) for key, x in zip(leaves, gradients, strict=True)}


def in_torch(rank, processes, path, store):
    """Every case, in one of several processes; the first process saves the results."""
    import torch
    import torch.distributed as dist
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    from attention_bridge.weights import transfer
    from torch_attention import dot_product_attention
    from torch_attention.ops import solve_unit_lower
    from torch_attention.sharding import make_mesh, on_mesh, placements, shard, shard_model

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=processes)

    def call(name, sizes, implementation, dtype="float64"):
        arrays, options, factor = given(name, dtype)
        mesh = make_mesh(sizes)
        kind = getattr(torch, dtype)
        options = {key: torch.from_numpy(x) if isinstance(x, np.ndarray) else x for key, x in options.items()}
        with on_mesh(mesh):
            arrays = {
                key: shard(torch.from_numpy(x).to(kind), mesh, *AXES.get(key, ())).requires_grad_()
                for key, x in arrays.items()
            }
            output = dot_product_attention(**arrays, **options, implementation=implementation)
            loss = (whole(output) * torch.from_numpy(factor).to(kind)).sum()
            gradients = torch.autograd.grad(loss, list(arrays.values()))
        return {key: whole(x) for key, x in zip(("output", *arrays), (output, *gradients), strict=True)}

    def model(name, sizes):
        mesh = make_mesh(sizes)
        made = transfer(weights(name), MODELS[name].made(names("torch"), {"dtype": torch.float64})).eval()
        shard_model(made, mesh)
        with on_mesh(mesh):
            inputs = {
                key: shard(torch.from_numpy(x), mesh, *MODELS[name].axes(key))
                for key, x in MODELS[name].inputs.items()
            }
            return outputs_and_gradients(made, inputs)

    def placed(x, mesh, where):
        """An array that is replicated, sharded along one axis, or a partial sum on each device."""
        if where == "partial":
            return DTensor.from_local(x / processes, mesh, [Partial()])
        return distribute_tensor(x, mesh, [Replicate() if where == "whole" else Shard(where)])

    def viewed(x, after):
        """A view that DTensor supports: transposed twice, and redistributed in between."""
        after = Replicate() if after == "whole" else Shard(after)
        return x.transpose(1, 2).redistribute(placements=[after]).exp().transpose(1, 2).flatten(2)

    def fails(run, expected):
        """Whether DTensor alone raises or gives another result."""
        try:
            found = whole(run())
        except RuntimeError:
            return torch.tensor(True)
        return torch.tensor(not torch.allclose(found, expected))

    def operators():
        """The operators that `on_mesh` replaces, and whether DTensor's own operators are faulty."""
        mesh = make_mesh({"data": processes})
        x, (lower, right) = torch.from_numpy(operands()[0]), map(torch.from_numpy, operands()[1])
        found = {}
        with on_mesh(mesh):
            for before, after in VIEWED:
                leaf = placed(x, mesh, before).requires_grad_()
                output = whole(viewed(leaf, after))
                (gradient,) = torch.autograd.grad(output.square().sum(), leaf)
                results = {"output": output, "gradient": whole(gradient)}
                found |= {f"viewed/{before}/{after}/{key}": y for key, y in results.items()}
            for sides in SOLVED:
                given = [
                    placed(y, mesh, side).requires_grad_()
                    for y, side in zip((lower, right), sides, strict=True)
                ]
                output = whole(solve_unit_lower(*given))
                gradients = torch.autograd.grad(output.square().sum(), given)
                results = {"output": output, "lower": whole(gradients[0]), "right": whole(gradients[1])}
                found |= {f"solved/{'/'.join(map(str, sides))}/{key}": y for key, y in results.items()}
            for (name, run), axis, place in product(ALONG.items(), (1, -3), (0, 1)):
                leaf = placed(x, mesh, place).requires_grad_()
                output = whole(run(leaf, axis))
                (gradient,) = torch.autograd.grad(output.square().sum(), leaf)
                results = {"output": output, "gradient": whole(gradient)}
                found |= {f"{name}/{axis}/{place}/{key}": y for key, y in results.items()}
        summed, parted = placed(x, mesh, "partial"), placed(x, mesh, 1)
        sides = placed(lower, mesh, "whole"), placed(right, mesh, 1)
        alone = {
            "viewed": (lambda: viewed(summed, "whole"), x.exp().flatten(2)),
            "solved": (lambda: solve_unit_lower(*sides), solve_unit_lower(lower, right)),
            **{name: (partial(run, parted, -3), run(x, -3)) for name, run in ALONG.items()},
        }
        return found | {f"alone/{key}": fails(*pair) for key, pair in alone.items()}

    def natively(name):
        """A model under PyTorch's own tensor parallelism, with the same table, on plain tensors."""
        from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

        mesh, styles = make_mesh({"model": processes}), (ColwiseParallel, RowwiseParallel)
        made = transfer(weights(name), MODELS[name].made(names("torch"), {"dtype": torch.float64})).eval()
        plan = {
            path.removesuffix(".weight"): styles[place.dim]()
            for path, (place,) in placements(made, mesh).items()
            if path.endswith("weight") and place.is_shard()
        }
        parallelize_module(made, mesh, plan)
        return outputs_and_gradients(
            made, {key: torch.from_numpy(x) for key, x in MODELS[name].inputs.items()}
        )

    found = all_results("torch", call, model)
    found |= {f"operators/{key}": x for key, x in operators().items()}
    found |= {f"natively/{key}": x for key, x in natively("Decoder").items()}
    found = {key: x.detach() for key, x in found.items()}
    if rank == 0:
        np.savez(
            path, **{key: (x.float() if x.dtype == torch.bfloat16 else x).numpy() for key, x in found.items()}
        )
    dist.destroy_process_group()


if __name__ == "__main__":
    mirror, path = sys.argv[1:]
    if mirror == "jax":
        np.savez(path, **in_jax())
    else:
        import torch.multiprocessing

        for needed in ("attention_bridge.parity.run", "torch_attention.sharding"):
            import_module(needed)  # imported once, before the processes fork
        store = Path(tempfile.mkdtemp()) / "store"
        arguments = (4, path, str(store))
        torch.multiprocessing.start_processes(in_torch, arguments, nprocs=4, start_method="fork")
