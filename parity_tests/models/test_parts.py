"""Parts of descriptions: each argument accepts the classes of its role, with the same errors in both mirrors."""

import importlib
import re
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention.models as jax_models
import torch_attention.models as torch_models
from attention_bridge.errors import InputError
from attention_bridge.pretrained import save_pretrained
from jax_attention.models.roles import OF_MODELS as JAX_ROLES
from torch_attention.models.part_builder import _parts
from torch_attention.models.roles import OF_MODELS, OF_MODULES, OF_NUMBERS, ON_GRIDS, SHARED_POSITION

MODELS = {"torch": torch_models, "jax": jax_models}
each_models = pytest.mark.parametrize("models", MODELS.values(), ids=MODELS)

MIXER = ("CausalSelfAttention", {"num_heads": 2})
ROUTING = ("SoftmaxRouting", {"num_chosen": 1})
LATENT = ("MultiHeadLatentAttention", {
    "num_heads": 2, "kv_lora_rank": 4, "q_lora_rank": None, "nope_head_dim": 4, "rope_head_dim": 2,
    "value_head_dim": 4, "position": ("RotaryEmbedding", {"head_dim": 2}),
})  # fmt: skip
INDEXER = ("LightningIndexer", {"num_heads": 2, "head_dim": 4})


def part(models, given):
    """A part, with nested parts given as pairs of a name and arguments."""
    if not (isinstance(given, tuple) and given and isinstance(given[0], str)):
        return given
    name, arguments = given
    return models.Part(name, {key: part(models, x) for key, x in arguments.items()})


def options(models):
    return {"rngs": nnx.Rngs(0)} if models is jax_models else {}


def language_model(models, mixer=MIXER, ffn=None, norm=("rms_norm", {}), **fields):
    layer = models.LayerSpec(part(models, mixer), part(models, ffn), norm=part(models, norm))
    fields = {name: part(models, x) for name, x in fields.items()}
    return models.LanguageModel(models.ModelSpec(11, 8, (layer,), **fields), **options(models))


def task_model(models, head, backbone=None):
    backbone = models.EncoderConfig(11, 8, 2, 1, 6, 9) if backbone is None else backbone
    return models.TaskModel(models.TaskSpec(backbone, part(models, head)), **options(models))


def mixer(**arguments):
    return ("CausalSelfAttention", {"num_heads": 2, **arguments})


NO_NORM = "must be a norm, rms_norm or layer_norm, got"
NO_MIXER = "mixer must be a class that mixes one sequence, such as CausalSelfAttention, got"
NO_FFN = "ffn must be a feed-forward network such as GatedFeedForward, got"
NO_POSITION = "position must be a position scheme such as RotaryEmbedding, got"
NO_POOLING = "pooling must be a pooling of tokens such as MeanPooling, got"
NO_HEAD = "head must be a task head such as SequenceClassifier, got"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m: language_model(m, ffn=MIXER), f"{NO_FFN} CausalSelfAttention"),
        (lambda m: language_model(m, ffn=("rms_norm", {})), f"{NO_FFN} rms_norm"),
        (lambda m: language_model(m, ffn=("RewardHead", {})), f"{NO_FFN} RewardHead"),
        (lambda m: language_model(m, ffn=ROUTING), f"{NO_FFN} SoftmaxRouting"),
        (lambda m: language_model(m, ("FeedForward", {"ffn_dim": 3})), f"{NO_MIXER} FeedForward"),
        (lambda m: language_model(m, ("rms_norm", {})), f"{NO_MIXER} rms_norm"),
        (lambda m: language_model(m, ("RotaryEmbedding", {})), f"{NO_MIXER} RotaryEmbedding"),
        (lambda m: language_model(m, ("llama3_frequencies", {})), f"{NO_MIXER} llama3_frequencies"),
        (lambda m: language_model(m, ("EncoderDecoderAttention", {})), f"{NO_MIXER} EncoderDecoderAttention"),
        (lambda m: language_model(m, norm=MIXER), f"norm {NO_NORM} CausalSelfAttention"),
        (lambda m: language_model(m, norm=("FeedForward", {})), f"norm {NO_NORM} FeedForward"),
        (lambda m: language_model(m, embedding_norm=("MeanPooling", {})), f"norm {NO_NORM} MeanPooling"),
        (lambda m: language_model(m, mixer(position=("rms_norm", {"dim": 4}))), f"{NO_POSITION} rms_norm"),
        (lambda m: language_model(m, mixer(position=MIXER)), f"{NO_POSITION} CausalSelfAttention"),
        (lambda m: language_model(m, mixer(position=("SinusoidalEmbedding", {"embed_dim": 4}))),
         f"{NO_POSITION} SinusoidalEmbedding"),
        (lambda m: language_model(m, mixer(position=("ShawSelfAttention", {}))),
         f"{NO_POSITION} ShawSelfAttention"),
        (lambda m: language_model(m, mixer(position=("llama3_frequencies", {}))),
         f"{NO_POSITION} llama3_frequencies"),
        (lambda m: language_model(m, mixer(num_kv_heads=("rms_norm", {}))),
         "takes no argument 'num_kv_heads'"),
        (lambda m: language_model(m, mixer(dropout=("rms_norm", {}))),
         "dropout of CausalSelfAttention takes no part, got rms_norm"),
        (lambda m: language_model(m, ("GatedAttention", {
            "num_heads": 2, "num_kv_heads": 2, "q_norm": ("MeanPooling", {})})),
         f"q_norm {NO_NORM} MeanPooling"),
        (lambda m: language_model(m, ffn=("MixtureOfExperts", {
            "ffn_dim": 3, "num_experts": 2, "routing": ("FeedForward", {"ffn_dim": 3})})),
         "routing must be a routing of experts such as SoftmaxRouting, got FeedForward"),
        (lambda m: language_model(m, ("DeepSeekSparseAttention", {
            "attention": ("FeedForward", {}), "indexer": INDEXER, "top_k": 2})),
         "attention must be attention with latents or grouped heads, such as MultiHeadLatentAttention, "
         "got FeedForward"),
        (lambda m: language_model(m, ("DeepSeekSparseAttention", {
            "attention": LATENT, "indexer": ("TopKAttention", {}), "top_k": 2})),
         "indexer must be an indexer such as LightningIndexer, got TopKAttention"),
        (lambda m: language_model(m, mixer(position=("RotaryEmbedding", {
            "head_dim": 4, "frequencies": ("FeedForward", {})}))),
         "frequencies must be numbers or a function such as llama3_frequencies, got FeedForward"),
        (lambda m: language_model(m, ("Dropout", {"rate": 0.1})), "a part must be a class of this package"),
        (lambda m: task_model(m, ("RewardHead", {"pooling": ("GatedFeedForward", {"ffn_dim": 8})})),
         f"{NO_POOLING} GatedFeedForward"),
        (lambda m: task_model(m, ("EmbeddingHead", {"pooling": ("SequenceClassifier", {"num_classes": 2})})),
         f"{NO_POOLING} SequenceClassifier"),
        (lambda m: task_model(m, ("SequenceClassifier", {"num_classes": 2, "pooling": MIXER})),
         f"{NO_POOLING} CausalSelfAttention"),
        (lambda m: task_model(m, ("MeanPooling", {})), f"{NO_HEAD} MeanPooling"),
        (lambda m: task_model(m, ("rms_norm", {})), f"{NO_HEAD} rms_norm"),
        (lambda m: task_model(m, MIXER), f"{NO_HEAD} CausalSelfAttention"),
        (lambda m: task_model(m, ("MaskedLanguageHead", {}),
                              m.VisionTransformerConfig((8, 8), (4, 4), 3, 8, 2, 1, 6)),
         "MaskedLanguageHead needs vocab_size of a backbone that reads tokens, "
         "got a backbone that reads none"),
    ],
)  # fmt: skip
@each_models
def test_part_of_another_role_raises(models, build, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(models)


@pytest.mark.parametrize("given", ["rotary", 3, True])
@each_models
def test_value_in_place_of_a_module_raises(models, given):
    with pytest.raises(TypeError, match=re.escape(f"{NO_POSITION} {given!r}")):
        language_model(models, mixer(position=given))


@pytest.mark.parametrize("name", ["device", "dtype", "param_dtype", "rngs"])
@each_models
def test_part_with_an_argument_of_the_model_raises(models, name):
    message = f"{name} must be given to the model, not to a part of it, got it in"
    with pytest.raises(ValueError, match=f"{message} CausalSelfAttention"):
        language_model(models, mixer(**{name: None}))
    with pytest.raises(ValueError, match=f"{message} rms_norm"):
        language_model(models, norm=("rms_norm", {name: "float32"}))
    with pytest.raises(ValueError, match=f"{message} LearnedPooling"):
        task_model(models, ("RewardHead", {"pooling": ("LearnedPooling", {name: "cpu"})}))


def test_every_part_has_a_role():
    """A part without a role could be described but never built."""
    assert OF_MODELS.keys() == JAX_ROLES.keys()
    roles = [
        *OF_MODELS.values(),
        *OF_MODULES.values(),
        *OF_NUMBERS.values(),
        *ON_GRIDS.values(),
        SHARED_POSITION,
    ]
    without = {name for name, make in _parts().items() if not any(role.fits(make) for role in roles)}
    two_sequences = {"BasicAttention", "LuongAttention", "ScaledDotProductAttention", "CrossAttention",
                     "MultiHeadCrossAttention", "EncoderDecoderAttention", "MultiheadAttentionBlock"}  # fmt: skip
    sets_and_states = {"GRUCell", "SlotAttention", "InducedSetAttentionBlock"}
    grids_without_a_stage = {"ViTBlock", "AxialAttention", "PatchEmbedding"}
    assert without == two_sequences | sets_and_states | grids_without_a_stage


@each_models
def test_parts_of_their_roles_are_built(models):
    experts = ("MixtureOfExperts", {"ffn_dim": 3, "num_experts": 2, "routing": ROUTING})
    scaled = ("RotaryEmbedding", {
        "head_dim": 4,
        "frequencies": ("linear_frequencies", {"rotary_dim": 4, "factor": 2.0}),
        "amplitude": ("yarn_amplitude", {"factor": 2.0}),
    })  # fmt: skip
    model = language_model(models, mixer(position=scaled), experts, ("layer_norm", {"bias": False}))
    assert type(model.layers[0].attention.position).__name__ == "RotaryEmbedding"
    sparse = ("DeepSeekSparseAttention", {"attention": LATENT, "indexer": INDEXER, "top_k": 2})
    assert type(language_model(models, sparse).layers[0].attention.indexer).__name__ == "LightningIndexer"
    pooled = task_model(models, ("RewardHead", {"pooling": ("LearnedPooling", {"num_heads": 2})}))
    assert type(pooled.head.pooling).__name__ == "LearnedPooling"


@each_models
def test_tied_head_needs_the_sizes_of_the_embedding(models):
    tokens = {"torch": torch.tensor, "jax": jnp.asarray}[models.__name__.split("_")[0]]([[1, 2]])
    encoder = models.EncoderConfig(11, 8, 2, 1, 6, 9, token_dim=4)
    for arguments, given in (({"vocab_size": 7}, "7 and 4"), ({"token_dim": 8}, "11 and 8")):
        model = task_model(models, ("MaskedLanguageHead", arguments), encoder)
        message = f"vocab_size and token_dim of the model's token embedding, 11 and 4, got {given}"
        with pytest.raises(ValueError, match=message):
            model(tokens)
    for arguments in ({}, {"vocab_size": 7, "tied": False}):
        logits = task_model(models, ("MaskedLanguageHead", arguments), encoder)(tokens).logits
        assert logits.shape == (1, 2, arguments.get("vocab_size", 11))


def specs():
    """The description of one model in both mirrors."""
    return {
        name: models.ModelSpec(11, 8, (models.LayerSpec(part(models, MIXER)),))
        for name, models in MODELS.items()
    }


OTHER = {"torch": "jax", "jax": "torch"}


@pytest.mark.parametrize("mirror", MODELS)
def test_description_of_the_other_mirror_raises_with_the_conversion(mirror):
    models, theirs, others = MODELS[mirror], specs()[OTHER[mirror]], MODELS[OTHER[mirror]]
    message = (
        "config must be a ModelSpec of this package, got one of the other mirror; "
        "convert it with ModelSpec.from_dict(config.to_dict())"
    )
    with pytest.raises(TypeError, match=re.escape(message)):
        models.LanguageModel(theirs, **options(models))
    assert models.ModelSpec.from_dict(theirs.to_dict()) == specs()[mirror]
    with pytest.raises(
        TypeError, match="config must be an EncoderConfig of this package, got one of the other"
    ):
        models.Encoder(others.EncoderConfig(11, 8, 2, 1, 6, 9), **options(models))
    with pytest.raises(TypeError, match=r"backbone must be .* of this package, got one of the other mirror"):
        models.TaskSpec(theirs, models.Part("RewardHead"))
    with pytest.raises(
        TypeError, match=r"mixer must be a Part of this package, got one of the other mirror$"
    ):
        models.LayerSpec(others.Part("GatedDeltaNet"))
    with pytest.raises(TypeError, match=r"position of X must be .* or a Part, got one of the other mirror"):
        models.Part("X", {"position": others.Part("T5Bias")})
    with pytest.raises(TypeError, match="config must be a ModelSpec, got 3"):
        models.LanguageModel(3, **options(models))


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda d: [1], TypeError, "given must be a mapping from names, got list"),
        (lambda d: None, TypeError, "given must be a mapping from names, got None"),
        (lambda d: {}, ValueError, "a ModelSpec must have vocab_size, embed_dim, layers, got none of the name "
                                   "'vocab_size'"),
        (lambda d: {**d, "layers": [{}]}, ValueError, "a LayerSpec must have mixer, got none of the name 'mixer'"),
        (lambda d: {**d, "layers": [3]}, TypeError, "a LayerSpec must be a mapping from names, got 3"),
        (lambda d: {**d, "layers": 3}, TypeError, "layers must be a list of layers, got 3"),
        (lambda d: {**d, "heads": 3}, ValueError, "a ModelSpec has vocab_size, embed_dim"),
        (lambda d: {**d, 3: 3}, ValueError, "a ModelSpec has vocab_size, embed_dim"),
        (lambda d: {**d, "norm": {"eps": 1}}, ValueError, "a part has a name and arguments, got ['eps']"),
        (lambda d: {**d, "special_tokens": {"end": 1}}, ValueError, "a SpecialTokens has eos, pad"),
        (lambda d: {**d, "special_tokens": {"eos": "a"}}, TypeError,
         "eos must be an integer or a sequence of integers, got 'a'"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("mirror", MODELS)
def test_dictionary_that_describes_no_model_raises(mirror, change, kind, message):
    with pytest.raises(kind, match=re.escape(message)):
        MODELS[mirror].ModelSpec.from_dict(change(specs()[mirror].to_dict()))


@each_models
def test_special_tokens_take_one_end_token_or_several(models):
    kind = models.SpecialTokens
    for one in (2, np.int64(2), [2], (2,), np.array([2])):
        assert kind(eos=one) == kind((2,))
        assert kind(one).eos == (2,)
        assert type(kind(one).eos[0]) is int
        assert hash(kind(one)) == hash(kind((2,)))
    assert kind().eos == kind([]).eos == ()
    assert kind(np.array([1, 2])).eos == (1, 2)
    assert replace(kind(2, pad=0), bos=1) == kind((2,), 0, 1, None)
    described = replace(specs()["torch" if models is torch_models else "jax"], special_tokens=kind(2))
    assert type(described).from_dict(described.to_dict()).special_tokens == kind(2)
    for wrong, error in ((-1, ValueError), ([-1], ValueError), (True, TypeError), (2.5, TypeError),
                         ("2", TypeError), (None, TypeError), ([[2]], TypeError)):  # fmt: skip
        with pytest.raises(error, match="eos must be"):
            kind(eos=wrong)


@each_models
def test_model_that_cannot_be_saved_raises_with_its_name(models, tmp_path):
    model = language_model(models, embed_scale=-1.0)
    with pytest.raises(InputError) as caught:
        save_pretrained(model, tmp_path / "new")
    assert str(caught.value) == (
        "this LanguageModel cannot be saved, because load_pretrained would refuse it: "
        "config of this LanguageModel must have a positive number embed_scale, got -1.0"
    )
    assert not (tmp_path / "new").exists()


@each_models
def test_parts_can_be_imported(models):
    """`help` finds each name that a description may use, in the package or in its `models`."""
    package = importlib.import_module(models.__name__.partition(".")[0])
    missing = {name for name in _parts() if not hasattr(package, name) and not hasattr(models, name)}
    assert missing == set()
    assert models.Part("rms_norm").name in vars(models)


@pytest.mark.parametrize("mirror", MODELS)
def test_layer_norm_that_is_not_learned_has_no_parameters(mirror, rng):
    norms = importlib.import_module(f"{mirror}_attention.norms")
    x = rng.standard_normal((3, 5)).astype(np.float32)
    array = torch.as_tensor if mirror == "torch" else jnp.asarray
    norm = norms.layer_norm(5, eps=0.1, learned=False, **options(MODELS[mirror]))
    centred = x - x.mean(-1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 0.1)
    np.testing.assert_allclose(np.asarray(norms.normalise(norm, array(x))), expected, atol=1e-6)
    parameters = (
        list(norm.parameters()) if mirror == "torch" else nnx.to_flat_state(nnx.state(norm, nnx.Param))
    )
    assert not list(parameters)
