"""The two mirrors have the same files, names, signatures, docstrings, parameters and demonstrations.

The allowed differences are the framework's own names, all listed here.
"""

import ast
import importlib
import inspect
import io
import re
import subprocess
import sys
import tokenize
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
import torch
from flax import nnx
from torch import nn

import jax_attention
import torch_attention
from attention_bridge.catalogue import CATALOGUE, Part, select
from attention_bridge.parity import instances
from attention_bridge.pretrained.families.describe import layer_spec, model_spec, vision_layer
from attention_bridge.weights import plan
from parity_tests.helpers import described
from parity_tests.helpers.task_models import TASK_MODELS

ROOTS = {
    "torch": Path(torch_attention.__file__).parent,
    "jax": Path(jax_attention.__file__).parent,
}
FILES = sorted(str(path.relative_to(ROOTS["torch"])) for path in ROOTS["torch"].rglob("*.py"))

# Files whose code differs between the frameworks; every other file differs only in the words below.
OWN_CODE = {
    "activations.py",
    "arrays.py",
    "demonstration.py",
    "layers.py",
    "lora.py",
    "lora_embedding.py",
    "models/depth.py",
    "models/evaluation.py",
    "models/module_classes.py",
    "norms.py",
    "ops/arrays.py",
    "ops/block_mask.py",
    "ops/blockwise.py",
    "ops/choice.py",
    "ops/distributed/collectives.py",
    "ops/distributed/ring.py",
    "ops/distributed/shards.py",
    "ops/flex.py",
    "ops/native.py",
    "ops/tile_loop.py",
    "ops/tile_sums.py",
    "ops/tiles.py",
    "sharding.py",
}

# Text of the PyTorch file with its replacement in the JAX file, applied in order; line breaks do not matter.
WORDS = [
    ("torch_attention", "jax_attention"),
    ("Tensor", "Array"),
    ("def forward(", "def __call__("),
    ("super().forward(", "super().__call__("),
    (re.compile(r"sinks=self\.sinks\b"), "sinks=self.sinks[...]"),
    ("nn.ModuleList(", "nnx.List("),
    ("(nn.", "(nnx."),
    (": nn.", ": nnx."),
    (", nn.", ", nnx."),
    ("torch.bool", "jnp.bool_"),
    ("str(x.dtype).removeprefix('torch.')", "str(x.dtype)"),
    # PyTorch constructors take a device and a dtype, JAX constructors take random generators.
    (
        ", device: torch.device | str | None=None, dtype: torch.dtype | None=None",
        ", rngs: nnx.Rngs, param_dtype: DTypeLike=jnp.float32, dtype: DTypeLike | None=None",
    ),
    ("(self, **options", "(self, *, rngs: nnx.Rngs | None=None, **options"),
    (re.compile(r"(super\(\).__init__\(.*, )(?=\*\*options\))"), r"\1rngs=rngs, "),
    ("Factory(device=device, dtype=dtype)", "Factory(rngs=rngs, param_dtype=param_dtype, dtype=dtype)"),
    ("dropout: float=0.0):\n", "dropout: float=0.0, rngs: nnx.Rngs | None=None):\n"),
    ("(self, dropout: float=0.0, rngs", "(self, dropout: float=0.0, *, rngs"),
    ("Dropout(dropout)", "Dropout(dropout, rngs=rngs)"),
    ("Dropout(config.dropout)", "Dropout(config.dropout, rngs=rngs)"),
    # New arrays have a device in PyTorch.
    (", device: torch.device | str | None=None)", ")"),
    (", device: torch.device | str | None)", ")"),
    (", *)", ")"),
    (re.compile(r", device(=[\w.]+(\[0\])?(\.device)?)?\)"), ")"),
    # Operations.
    (".to(torch.promote_types(x.dtype, torch.float32))", ".astype(jnp.promote_types(x.dtype, jnp.float32))"),
    (re.compile(r"\.to\(([\w.]+\.dtype|wide)\)"), r".astype(\1)"),
    (re.compile(r"\bdim=(?=-?\d|\()"), "axis="),
    ("keepdim=", "keepdims="),
    ("torch.as_tensor(", "jnp.asarray("),
    ("torch.take_along_dim(", "jnp.take_along_axis("),
    (re.compile(r"torch\.(softmax|sigmoid|log_softmax|logsumexp)\("), r"jax.nn.\1("),
    ("torch.", "jnp."),
]
# Lines that only one of the two has.
TORCH_ONLY = {"import torch", "super().__init__()", "from torch import Array", "from torch import Array, nn"}
JAX_ONLY = {
    "import jax",
    "import jax.numpy as jnp",
    "from flax import nnx",
    "from jax import Array",
    "from jax.typing import DTypeLike",
}


def source(mirror, file):
    return (ROOTS[mirror] / file).read_text()


def module(mirror, file):
    """The module of a file."""
    name = f"{mirror}_attention." + file.removesuffix(".py").replace("/", ".")
    return importlib.import_module(name.removesuffix(".__init__"))


def translate(text):
    """Replace the words of PyTorch by the words of JAX."""
    for word, other in WORDS:
        text = word.sub(other, text) if isinstance(word, re.Pattern) else text.replace(word, other)
    return text


def code(mirror, text):
    """The lines of code of a file without docstrings and comments, with the same line breaks in both mirrors."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0] = ast.Pass()
    text = ast.unparse(tree)
    text = translate(text) if mirror == "torch" else re.sub(r"(, )?rngs=nnx\.Rngs\(0\)\)", ")", text)
    only = TORCH_ONLY if mirror == "torch" else JAX_ONLY
    return [line for line in text.splitlines() if line.strip() not in only and line.strip()]


def comments(mirror, file):
    """The comments of a file, in order."""
    tokens = tokenize.generate_tokens(io.StringIO(source(mirror, file)).readline)
    return [token.string for token in tokens if token.type == tokenize.COMMENT]


class TestFiles:
    def test_both_mirrors_have_the_same_files(self):
        others = sorted(str(path.relative_to(ROOTS["jax"])) for path in ROOTS["jax"].rglob("*.py"))
        assert others == FILES

    @pytest.mark.parametrize("mirror", ROOTS)
    @pytest.mark.parametrize("file", FILES)
    def test_no_file_is_long(self, mirror, file):
        assert len(source(mirror, file).splitlines()) <= 300

    @pytest.mark.parametrize("file", sorted(set(FILES) - OWN_CODE))
    def test_mirrored_files_differ_only_in_framework_idiom(self, file):
        assert code("torch", source("torch", file)) == code("jax", source("jax", file))

    @pytest.mark.parametrize(
        ("file", "before", "after"),
        [
            ("self_attention.py", "is_causal=True", "is_causal=False"),
            ("masks.py", "key > query - window", "key >= query - window"),
            ("ops/call.py", "-0.5", "-1"),
            ("ops/single_head.py", "value[:, None]", "value"),
            ("cross_attention.py", "bias: bool = True", "bias: bool = False"),
        ],
    )
    def test_change_in_one_mirror_is_detected(self, file, before, after):
        text = source("torch", file)
        assert before in text
        assert code("torch", text.replace(before, after, 1)) != code("jax", source("jax", file))

    @pytest.mark.parametrize("file", sorted(set(FILES) - OWN_CODE))
    def test_comments_and_their_shapes_are_the_same(self, file):
        assert list(map(translate, comments("torch", file))) == comments("jax", file)


# Docstrings that mention the framework.
OWN_DOCSTRINGS = {
    ("__init__.py", None),
    ("layers.py", "Dropout"),
    ("layers.py", "Factory"),
    ("ops/choice.py", "fastest"),
    ("ops/flex.py", None),
}
# Files that call a framework's kernels or build its loops: their names differ too.
OWN_NAMES = {"ops/arrays.py", "ops/native.py", "ops/tile_loop.py", "ops/tiles.py"}
ALIKE = [file for file in FILES if file not in OWN_NAMES]
# Keyword-only parameters of one framework, which say where and how arrays are made.
OWN_PARAMETERS = {"torch": {"device", "dtype"}, "jax": {"rngs", "param_dtype", "dtype"}}
OWN_TYPES = [
    (re.compile(r"torch_attention"), "jax_attention"),
    (re.compile(r"\b[\w.]*\b(Tensor|Array)\b"), "Array"),
    (re.compile(r"\b[\w.]*\b(DeviceMesh|Mesh)\b"), "Mesh"),
    (re.compile(r"torch\.nn\.modules\.\w+\.Embedding"), "Embed"),
    (re.compile(r"torch\.nn\.modules\.\w+\.Conv[12]d"), "Conv"),
    (re.compile(r"torch\.nn\.parameter\.Parameter|flax\.nnx\.[\w.]+\.Param\[Array\]"), "Param"),
    (re.compile(r"torch\.nn\.parameter\.Buffer|flax\.nnx\.[\w.]+\.Variable\[Array\]"), "Buffer"),
    (re.compile(r"(torch\.nn|flax\.nnx)\.[\w.]*\b(\w+)"), r"\2"),
]


def definitions(mirror, file):
    """Every public function, class and method of a file by its name."""
    its_module = module(mirror, file)
    found = {}
    for name, thing in vars(its_module).items():
        if getattr(thing, "__module__", None) != its_module.__name__ or name.startswith("_"):
            continue
        if inspect.isfunction(thing):
            found[name] = thing
        elif inspect.isclass(thing):
            found[name] = thing
            for method, function in vars(thing).items():
                if inspect.isfunction(function) and function.__module__ == its_module.__name__:
                    found[f"{name}.{method}"] = function
    return {name.replace(".forward", ".__call__"): thing for name, thing in found.items()}


def names_for_others(mirror, file):
    """The public names that a file defines or re-exports."""
    names = set()
    for node in ast.parse(source(mirror, file)).body:
        match node:
            case ast.FunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign():
                names |= {target.id for target in node.targets}
            case ast.AnnAssign():
                names.add(node.target.id)
            case ast.ImportFrom():
                names |= {alias.asname for alias in node.names if alias.asname == alias.name}
    return {name for name in names if not name.startswith("_")}


def annotation(given):
    """An annotation as text, with one word for types that both frameworks have."""
    text = inspect.formatannotation(given)
    for theirs, ours in OWN_TYPES:
        text = theirs.sub(ours, text)
    return text


def signature(mirror, thing):
    """Parameters and result of a function, or fields of a record, as text."""
    if inspect.isclass(thing):
        fields = {name: annotation(given) for name, given in vars(thing).get("__annotations__", {}).items()}
        return fields, getattr(thing, "_field_defaults", None)
    given = inspect.signature(thing)
    kept = [
        (parameter.name, parameter.kind, annotation(parameter.annotation), parameter.default)
        for parameter in given.parameters.values()
        if not (parameter.kind is parameter.KEYWORD_ONLY and parameter.name in OWN_PARAMETERS[mirror])
    ]
    return kept, annotation(given.return_annotation)


def small_model(name, m, f):
    """The smallest model of a family, with all its parts."""
    sizes = {"vocab_size": 11, "embed_dim": 6, "num_heads": 3, "num_layers": 2, "ffn_dim": 8, "max_len": 7}
    stack = m.StackConfig(2, 3, 8)
    image = m.VisionTransformerConfig(
        (4, 6), (2, 3), 5, 8, 2, 1, 9, embedding_norm=True, pooler=True, num_classes=7
    )

    def sound(norm):
        layer = m.LayerSpec(
            m.Part("MultiHeadSelfAttention", {"num_heads": 3}),
            m.Part("FeedForward", {"ffn_dim": 8}),
            "post",
            m.Part("layer_norm"),
        )
        return m.WaveformSpec(
            6,
            (layer,),
            (5, 7),
            (3, 2),
            (2, 1),
            conv_norm=norm,
            position_kernel=4,
            position_groups=2,
            masked_frame=True,
        )

    def pyramid():
        norm = m.Part("layer_norm")
        windows = m.LayerSpec(
            m.Part("ShiftedWindowAttention", {"num_heads": 3, "window_size": 2}),
            m.Part("FeedForward", {"ffn_dim": 8}),
            norm=norm,
        )
        stages = (
            m.StageSpec(6, m.Part("PatchGrid", {"patch_size": (2, 3), "positions": True}), (windows,)),
            m.StageSpec(
                7, m.Part("PatchMerging"), (m.LayerSpec(None, m.Part("FeedForward", {"ffn_dim": 5})),)
            ),
        )
        return m.VisionHierarchySpec((8, 12), 5, stages, norm)

    model, config = {
        "VisionHierarchy": lambda: (m.VisionHierarchy, pyramid()),
        "Encoder of ALBERT": lambda: (
            m.Encoder,
            m.EncoderConfig(**sizes, num_types=0, token_dim=5, shared_layers=True),
        ),
        "EncoderDecoder": lambda: (m.EncoderDecoder, m.EncoderDecoderConfig(11, 6, stack, stack, 7)),
        "RelativeEncoderDecoder": lambda: (
            m.RelativeEncoderDecoder,
            m.RelativeEncoderDecoderConfig(11, 6, 2, 4, 1, 2, 8, gated=True, tied=False),
        ),
        "SpeechTransformer": lambda: (m.SpeechTransformer, m.SpeechConfig(11, 5, 6, stack, stack, 4, 7)),
        "VisionTransformer": lambda: (m.VisionTransformer, image),
        "WaveformEncoder": lambda: (m.WaveformEncoder, sound("first")),
        "WaveformEncoder with layer norms": lambda: (m.WaveformEncoder, sound("each")),
        "ContrastiveModel": lambda: (
            m.ContrastiveModel,
            m.ContrastiveConfig(m.DecoderConfig(**sizes), image, 4),
        ),
    }[name]()
    return model(config, **f)


def arranged(arrangement, heads, **options):
    """A model with one layer in that arrangement, with clamped experts."""
    sizes = {"ffn_dim": 5, "num_experts": 3, "bias": True, "limit": 1.5}
    mixture = Part("MixtureOfExperts", {**sizes, "routing": Part("SoftmaxRouting", {"num_chosen": 2})})
    layer = layer_spec(heads.mixer(described.rope(4)), mixture, arrangement, heads.norm(), **options)
    return model_spec(11, 6, [layer], max_len=7, logit_softcap=3.0, tied=True)


def described_model(name, m, f):
    """A small language model from its description; `m` has every name that a mirror defines."""
    heads = described.Heads(6, 2, 1, 4, qkv_bias=True, qk_norm=True, unit_offset=True)
    sizes = {"vocab_size": 11, "num_layers": 2, "ffn_dim": 8}
    spec = {
        "rotary decoder": lambda: described.rotary(heads, sandwich=True, windows=(2, None), **sizes),
        "parallel decoder": lambda: described.parallel(heads, 2, embedding_norm=True, **sizes),
        "latent decoder": lambda: described.latent(
            (6, 3, 5, 4, 3, 2, 7),
            described.experts(4, 2, 5, num_groups=2, num_chosen_groups=1),
            num_dense_layers=1,
            **sizes,
        ),
        "post norms": lambda: arranged("post", heads),
        "output norms": lambda: arranged("output", heads),
        "one norm for both": lambda: arranged("parallel_shared_norm", heads),
        "norms around mixers": lambda: arranged("sandwich_mixer", heads),
        "augmented residual": lambda: arranged(
            "sandwich_laurel", heads, laurel=Part("LearnedAugmentedResidual", {"rank": 4})
        ),
    }[name]()
    return described.made(spec, sys.modules[m.LanguageModel.__module__], f)


# Module classes without a catalogue entry.
def built_part(part, m, f):
    """The module that a part describes, in the mirror that takes these arguments."""
    return instances.build(part, "jax_attention" if "rngs" in f else "torch_attention", f)


SIGLIP_SIZES = {"embed_dim": 6, "num_heads": 3, "norm_eps": 0.01, "ffn_dim": 8, "activation": "gelu"}
SIGLIP_IMAGE = {
    **SIGLIP_SIZES,
    "image_size": (4, 6),
    "patch_size": (2, 3),
    "in_channels": 2,
    "num_layers": 1,
    "class_token": False,
    "pooling": Part("LearnedPooling", {"num_heads": 2, "ffn_dim": 5}),
}
SIGLIP = Part(
    "ContrastiveModel",
    {
        "config": Part(
            "ContrastiveConfig",
            {
                "text": model_spec(11, 6, [vision_layer(SIGLIP_SIZES)], max_len=7, is_causal=False),
                "image": Part("VisionTransformerConfig", SIGLIP_IMAGE),
                "feature_dim": 6,
                "text_pooling": Part("LastPosition"),
                "text_bias": True,
                "image_projection": False,
                "score_bias": True,
            },
        )
    },
)
HEAD_NORM = Part("head_layer_norm", {"num_heads": 2, "dim": 3})
NORMS_OF_HEADS = {"embed_dim": 6, "num_heads": 2, "num_kv_heads": 2, "q_norm": HEAD_NORM, "k_norm": HEAD_NORM}
MODULES = {
    **{each.name: partial(built_part, each.module) for each in TASK_MODELS},
    "GroupedQueryAttention with norms": partial(built_part, Part("GroupedQueryAttention", NORMS_OF_HEADS)),
    "FeedForward": lambda m, f: m.FeedForward(6, 8, **f),
    "LoRALinear": lambda m, f: m.add_lora(m.FeedForward(6, 8, **f), 2, alpha=3.0, targets=("up_proj",), **f),
    "LoRAEmbedding": lambda m, f: m.add_lora(
        m.SimpleSeq2Seq(11, 10, 6, 3, 1, ffn_dim=8, max_len=7, **f),
        2,
        alpha=3.0,
        targets=("source_embedding", "target_embedding"),
        **f,
    ),
    "PatchEmbedding": lambda m, f: m.PatchEmbedding((4, 6), (2, 3), 5, 7, **f),
    "ResidualStreams": lambda m, f: m.ResidualStreams(6, 3, **f),
    "AlternatingUpdates": lambda m, f: m.AlternatingUpdates(6, 3, **f),
    "LearnedAugmentedResidual": lambda m, f: m.LearnedAugmentedResidual(6, 4, **f),
    "SparseGatedFeedForward": lambda m, f: m.SparseGatedFeedForward(6, 8, sparsity=0.6, **f),
    "XIELUFeedForward": lambda m, f: m.XIELUFeedForward(6, 8, **f),
    "PlainMixtureOfExperts": lambda m, f: m.PlainMixtureOfExperts(
        6, 8, 4, m.SigmoidRouting(2), shared_dim=5, latent_dim=3, **f
    ),
    "DenseAndExperts": lambda m, f: m.DenseAndExperts(6, 8, 5, 4, 2, **f),
    "TokenInput": lambda m, f: m.TokenInput(6, 4, **f),
    "LayerEmbedding": lambda m, f: m.LayerEmbedding(6, 2, dim=4, vocab_size=11, **f),
    "NormedPooling": lambda m, f: m.NormedPooling(6, **f),
    "FeedForwardPreNorm": lambda m, f: m.FeedForwardPreNorm(
        m.MultiHeadSelfAttention(6, 3, **f), m.FeedForward(6, 8, **f), partial(m.layer_norm, 6, **f)
    ),
    "ParallelMixers": lambda m, f: m.ParallelMixers(
        m.GroupedQueryAttention(6, 3, 1, head_dim=4, is_causal=True, **f),
        m.Mamba2(6, 2, head_dim=5, state_dim=3, **f),
    ),
    "PatchBias": lambda m, f: m.PatchBias(2, (2, 3), **f),
    "XLNetEmbedding": lambda m, f: m.XLNetEmbedding(6, 2, 3, **f),
    "PatchRotaryEmbedding": lambda m, f: m.PatchRotaryEmbedding(8, (2, 3)),
    "ContrastiveModel of SigLIP": partial(built_part, SIGLIP),
    **{
        name: partial(small_model, name)
        for name in (
            "Encoder of ALBERT",
            "EncoderDecoder",
            "RelativeEncoderDecoder",
            "SpeechTransformer",
            "VisionHierarchy",
            "VisionTransformer",
            "WaveformEncoder",
            "WaveformEncoder with layer norms",
            "ContrastiveModel",
        )
    },
    **{
        name: partial(described_model, name)
        for name in (
            "rotary decoder",
            "parallel decoder",
            "latent decoder",
            "post norms",
            "output norms",
            "one norm for both",
            "norms around mixers",
            "augmented residual",
        )
    },
    "SimpleSeq2Seq": lambda m, f: m.SimpleSeq2Seq(11, 10, 6, 3, 2, ffn_dim=8, max_len=7, **f),
    "RecurrentSeq2Seq": lambda m, f: m.RecurrentSeq2Seq(
        11, 10, 6, 8, m.LuongAttention(m.GeneralScore(8, 8, **f)), **f
    ),
    "Encoder without a pooler": lambda m, f: m.Encoder(
        m.EncoderConfig(
            vocab_size=11, embed_dim=6, num_heads=3, num_layers=2, ffn_dim=8, max_len=7, pooler=False
        ),
        **f,
    ),
    "DistanceEmbedding": lambda m, f: m.DistanceEmbedding(
        6, num_buckets=4, max_distance=7, norm_eps=1e-7, **f
    ),
    "Encoder with boxes and windows": lambda m, f: m.Encoder(
        m.EncoderConfig(
            vocab_size=11,
            embed_dim=6,
            num_heads=3,
            num_layers=2,
            ffn_dim=8,
            max_len=7,
            num_coordinates=5,
            attention=m.Part("LongformerAttention", {"num_heads": 3, "one_sided_window": 2}),
        ),
        **f,
    ),
}


def mirror_names(mirror):
    """Every name that the files of a mirror define."""
    return SimpleNamespace(**{k: v for file in FILES for k, v in vars(module(mirror, file)).items()})


def build(name):
    """The module of that name in each mirror."""
    if name not in MODULES:
        (mechanism,) = select([name])
        theirs = instances.jax_shapes(mechanism.module, {})
        zeros = jax.tree.map(
            lambda x: x if isinstance(x, jax.Array) else np.zeros(x.shape, x.dtype), nnx.state(theirs)
        )
        nnx.update(theirs, zeros)
        return instances.build(mechanism.module, "torch_attention", {}), theirs
    built = {}
    for mirror in ROOTS:
        factory = {"rngs": nnx.Rngs(0)} if mirror == "jax" else {}
        built[mirror] = MODULES[name](mirror_names(mirror), factory)
    return built["torch"], built["jax"]


def build_torch(name):
    """A module of the PyTorch mirror, on the meta device where possible."""
    if name in MODULES:
        with torch.device("meta"):
            return MODULES[name](mirror_names("torch"), {})
    (mechanism,) = select([name])
    return instances.build(mechanism.module, "torch_attention", {"device": "meta"})


BUILT = [*MODULES, *(mechanism.name for mechanism in CATALOGUE)]


class TestNames:
    @pytest.mark.parametrize("file", ALIKE)
    def test_both_mirrors_define_the_same_names(self, file):
        assert names_for_others("torch", file) == names_for_others("jax", file)

    @pytest.mark.parametrize("file", ALIKE)
    def test_definitions_come_in_the_same_order(self, file):
        assert list(definitions("torch", file)) == list(definitions("jax", file))

    @pytest.mark.parametrize("package", [file for file in FILES if file.endswith("__init__.py")])
    def test_package_re_exports_the_same_names_and_each_exists(self, package):
        names = names_for_others("torch", package)
        assert names
        for mirror in ROOTS:
            assert all(hasattr(module(mirror, package), name) for name in names)

    @pytest.mark.parametrize("file", ALIKE)
    def test_docstrings_are_the_same(self, file):
        ours, theirs = definitions("torch", file), definitions("jax", file)
        ours[None], theirs[None] = module("torch", file), module("jax", file)
        for name, thing in ours.items():
            if (file, name) not in OWN_DOCSTRINGS:
                assert thing.__doc__ == theirs[name].__doc__, name
                assert thing.__doc__ or "._" in name, name

    def test_docstrings_that_may_differ_do(self):
        for file, name in OWN_DOCSTRINGS:
            ours, theirs = (
                module(mirror, file) if name is None else definitions(mirror, file)[name] for mirror in ROOTS
            )
            assert ours.__doc__
            assert theirs.__doc__
            assert ours.__doc__ != theirs.__doc__


class TestSignatures:
    @pytest.mark.parametrize("file", ALIKE)
    def test_signatures_differ_only_in_where_and_how_arrays_are_made(self, file):
        ours, theirs = definitions("torch", file), definitions("jax", file)
        for name in ours.keys() - {"Factory"}:
            assert signature("torch", ours[name]) == signature("jax", theirs[name]), name

    @pytest.mark.parametrize("mirror", ROOTS)
    def test_parameters_of_one_framework_are_keyword_only(self, mirror):
        for file in FILES:
            for name, thing in definitions(mirror, file).items():
                if inspect.isfunction(thing):
                    given = inspect.signature(thing).parameters
                    own = [given[known] for known in OWN_PARAMETERS[mirror] & given.keys()]
                    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in own), name

    @pytest.mark.parametrize("mirror", ROOTS)
    def test_functions_take_at_most_15_arguments_except_listed_ones(self, mirror):
        most = {
            "dot_product_attention": 19,
            "checked_call": 18,
            "EncoderConfig.__init__": 25,
            "ModelSpec.__init__": 25,
            "GroupedQueryAttention.__init__": 16,
            "Mamba2.__init__": 18,
            "QKNormAttention.__init__": 19,
            "EncoderDecoderConfig.__init__": 17,
            "RelativeEncoderDecoderConfig.__init__": 17,
            "VisionTransformerConfig.__init__": 22,
        }
        for file in FILES:
            for name, thing in definitions(mirror, file).items():
                if inspect.isfunction(thing):
                    assert len(inspect.signature(inspect.unwrap(thing)).parameters) <= most.get(name, 15), (
                        name
                    )

    def test_masks_and_options_follow_the_arrays_and_options_are_keyword_only(self):
        names = list(inspect.signature(torch_attention.dot_product_attention).parameters)
        assert names[:5] == ["query", "key", "value", "bias", "mask"]
        options = list(inspect.signature(torch_attention.dot_product_attention).parameters.values())[5:]
        assert all(option.kind is option.KEYWORD_ONLY for option in options)


class TestParameters:
    def test_every_module_class_is_in_the_table(self):
        parts = (part for name in BUILT for part in build_torch(name).modules())
        built = {kind.__name__ for part in parts for kind in type(part).__mro__}
        defined = {
            name
            for file in FILES
            for name, thing in definitions("torch", file).items()
            if inspect.isclass(thing) and issubclass(thing, nn.Module)
        }
        assert defined <= built

    @pytest.mark.parametrize("name", BUILT)
    def test_parameter_paths_are_the_same_and_layouts_map_them(self, name):
        ours, theirs = build(name)
        paths = [path.rpartition(".")[0] for path in ours.state_dict()]
        state = nnx.to_flat_state(nnx.state(theirs, nnx.Not(nnx.RngState)))
        assert sorted(paths) == sorted(".".join(map(str, path[:-1])) for path, _ in state)
        for report in (plan(ours, theirs), plan(theirs, ours)):
            assert report.faults == []
            assert len(report.matched) == len(paths)


DEMONSTRATIONS = [file for file in FILES if "\ndef main(" in source("torch", file)]
SEEDS = ["attention_basics", "self_attention", "cross_attention"]


@pytest.mark.slow
@pytest.mark.parametrize("file", DEMONSTRATIONS)
def test_demonstration_prints_the_same_in_both(file, capsys):
    printed = []
    for mirror in ROOTS:
        module(mirror, file).main()
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert len(re.findall(r"\d\.\d{3}", printed[0])) >= 6


def test_every_mechanism_has_a_demonstration():
    assert {mechanism.file for mechanism in CATALOGUE} - {"models/encoder.py"} <= set(DEMONSTRATIONS)


@pytest.mark.slow
def test_demonstration_runs_as_a_program_without_a_warning():
    running = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-m", f"{mirror}_attention.{name}"],
            cwd=ROOTS[mirror].parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in SEEDS
        for mirror in ROOTS
    ]
    for process in running:
        printed, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        assert not errors
        assert len(re.findall(r"^.*: output \(.*\), weights \(.*\)$", printed, re.MULTILINE)) >= 3
