"""Task heads: the proof against their oracles, equality with transformers, and no influence of padding."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from flax import nnx

import jax_attention.models
import torch_attention.models
from attention_bridge import weights
from attention_bridge.catalogue import Part
from attention_bridge.catalogue.part import build
from attention_bridge.parity.instances import jax_module, torch_module
from attention_bridge.parity.proof import prove
from attention_bridge.pretrained import load_pretrained, save_pretrained
from attention_bridge.pretrained.families import read_config
from attention_bridge.weights import transfer
from parity_tests.helpers.built import MIRRORS, each_mirror
from parity_tests.helpers.task_models import (
    CLASSES,
    DECODER,
    ENCODER,
    HEADS_ALONE,
    IMAGE,
    LANGUAGE,
    TASK_MODELS,
    classifier,
)

BATCH, LENGTH, DIM = 2, 5, 12
POOLED = [each for each in HEADS_ALONE if each.masks]
MODULES = {"torch": torch_module, "jax": jax_module}
MODELS = {"torch": torch_attention.models, "jax": jax_attention.models}


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def difference(one, other):
    return np.abs(numpy(one) - numpy(other)).max()


def vectors(rng):
    return rng.standard_normal((BATCH, LENGTH, DIM)).astype(np.float32)


@pytest.mark.parametrize("made", HEADS_ALONE, ids=lambda each: each.name)
def test_heads_equal_their_oracles_forward_and_backward(made):
    verdict = prove(made, "float32")
    assert verdict.ok, "\n".join(verdict.failures)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
@pytest.mark.parametrize("made", HEADS_ALONE, ids=lambda each: each.name)
def test_heads_equal_their_oracles_in_other_dtypes(made, dtype):
    verdict = prove(made, dtype)
    assert verdict.ok, "\n".join(verdict.failures)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("made", TASK_MODELS, ids=lambda each: each.name)
def test_models_with_heads_equal_their_oracles_forward_and_backward(made, dtype):
    verdict = prove(made, dtype)
    assert verdict.ok, "\n".join(verdict.failures)


@pytest.mark.parametrize("real", [(0, 3), (1, 5), (1, 4), (2, 2)], ids=["behind", "in front", "both", "all"])
@pytest.mark.parametrize("name", MIRRORS)
@pytest.mark.parametrize("made", POOLED, ids=lambda each: each.name)
def test_padding_has_no_influence(made, name, real, rng):
    """The padded second sequence equals the same sequence alone; a fully padded one gives finite results."""
    module, array = MODULES[name](made, "float32"), MIRRORS[name].array
    x, mask = vectors(rng), np.ones((BATCH, LENGTH), bool)
    mask[1] = False
    mask[1, slice(*real)] = True
    x[1, ~mask[1]] = np.nan
    found = numpy(module(array(x), array(mask)))
    assert np.isfinite(found).all()
    kept = x[1:, slice(*real)]
    if kept.shape[1]:
        assert difference(found[1:], module(array(kept.copy()))) < 1e-5
    shown = x.copy()
    shown[1, ~mask[1]] = 7.0 * np.cos(np.arange(DIM))  # a constant would be removed by a norm
    assert difference(found, module(array(shown), array(mask))) < 1e-6
    only = {"classes by the first token": 0, "classes by the last token": -1, "reward": -1}.get(made.name)
    if only is None or not mask[1, only]:
        assert difference(found[1], module(array(shown))[1]) > 1e-3  # without a mask, padding counts


@each_mirror
@pytest.mark.parametrize("backbone", [ENCODER, DECODER, LANGUAGE], ids=lambda each: each.name)
@pytest.mark.parametrize("head", ["EmbeddingHead", "RewardHead"])
def test_left_padding_of_a_text_has_no_influence(mirror, head, backbone, rng):
    """Learned positions count real tokens."""
    model = task_model(mirror, backbone, Part(head))
    model.eval()
    tokens = rng.integers(1, 17, (BATCH, LENGTH)).astype(np.int32)
    tokens[1, :2] = 0
    padded = model(mirror.array(tokens), mirror.array(tokens != 0)).output
    alone = model(mirror.array(tokens[1:, 2:].copy())).output
    assert difference(padded[1:], alone) < 1e-5
    if backbone is not LANGUAGE or head == "EmbeddingHead":  # LANGUAGE's last token attends to 3 tokens
        assert difference(model(mirror.array(tokens)).output[1:], alone) > 1e-4


@each_mirror
def test_padding_mask_of_one_text_broadcasts(mirror, rng):
    model = task_model(mirror, DECODER, Part("EmbeddingHead"))
    model.eval()
    tokens = mirror.array(rng.integers(1, 17, (BATCH, LENGTH)).astype(np.int32))
    mask = np.ones((1, 1, 1, LENGTH), bool)
    mask[..., :2] = False
    every = np.broadcast_to(mask, (BATCH, 1, 1, LENGTH)).copy()
    found = model(tokens, mirror.array(mask)).embeddings
    assert difference(found, model(tokens, mirror.array(every)).embeddings) == 0


@each_mirror
@pytest.mark.parametrize("pooling", ["FirstToken", "LastToken", "MeanPooling"])
def test_pooling_of_padding_only_gives_zeros_and_finite_gradients(mirror, pooling, rng):
    pool = getattr(MODELS[mirror.name], pooling)()
    mask = mirror.array(np.zeros((BATCH, LENGTH), bool))
    assert not numpy(pool(mirror.array(vectors(rng)), mask)).any()
    embed = build(Part("EmbeddingHead", {"embed_dim": DIM}), mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    x = vectors(rng)
    if mirror.package.__name__ == "torch_attention":
        x = torch.from_numpy(x).requires_grad_()
        embed(x, mask).sum().backward()
        slope = x.grad
    else:
        import jax

        slope = jax.grad(lambda x: embed(x, mask).sum())(mirror.array(x))
    assert not numpy(slope).any()


@each_mirror
def test_tokenizer_masks_and_padding_masks_are_equivalent(mirror, rng):
    pool, x = MODELS[mirror.name].MeanPooling(), mirror.array(vectors(rng))
    mask = np.ones((BATCH, LENGTH), np.int64)
    mask[1, 2:] = 0
    found = [
        pool(x, mirror.array(each)) for each in (mask, mask.astype(bool), mask.astype(bool)[:, None, None])
    ]
    assert difference(found[0], found[1]) == difference(found[0], found[2]) == 0


@each_mirror
@pytest.mark.parametrize(
    ("mask", "kind", "message"),
    [
        (np.ones((BATCH, LENGTH, LENGTH), bool), ValueError, "mask must say which tokens are real"),
        (np.ones((BATCH, LENGTH + 1), bool), ValueError, r"\(batch, length\) = \(2, 5\), got \(2, 6\)"),
        (np.full((BATCH, LENGTH), 2), TypeError, "got integers from 2 to 2"),
        (np.ones((BATCH, LENGTH), np.float32), TypeError, "mask must be boolean"),
    ],
)
def test_pooling_with_another_mask_raises(mirror, mask, kind, message, rng):
    with pytest.raises(kind, match=message):
        MODELS[mirror.name].MeanPooling()(mirror.array(vectors(rng)), mirror.array(mask))


def task_model(mirror, backbone, head, **options):
    part = Part("TaskModel", {"config": Part("TaskSpec", {"backbone": backbone, "head": head})})
    return build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0), **options})


@each_mirror
def test_parts_that_are_no_heads_and_unknown_arguments_raise(mirror, rng):
    with pytest.raises(
        ValueError, match="head must be a task head such as SequenceClassifier, got FeedForward"
    ):
        task_model(mirror, ENCODER, Part("FeedForward", {"ffn_dim": 3}))
    with pytest.raises(ValueError, match="SequenceClassifier: missing a required argument: 'num_classes'"):
        task_model(mirror, ENCODER, Part("SequenceClassifier"))
    with pytest.raises(ValueError, match="num_classes must be at least 1, got 0"):
        task_model(mirror, ENCODER, Part("TokenClassifier", {"num_classes": 0}))
    model = task_model(mirror, IMAGE, classifier())
    image = mirror.array(rng.standard_normal((BATCH, 4, 6, 2)).astype(np.float32))
    with pytest.raises(ValueError, match="mask must be None for a VisionTransformer, which takes none"):
        model(image, mirror.array(np.ones((BATCH, LENGTH), bool)))
    head = build(
        Part("MaskedLanguageHead", {"embed_dim": DIM, "vocab_size": 3}),
        mirror.package.__name__,
        {"rngs": nnx.Rngs(0)},
    )
    with pytest.raises(ValueError, match="embedding must be the model's token embedding for a tied head"):
        head(mirror.array(vectors(rng)))


@each_mirror
def test_dropout_masks_replace_sampled_ones(mirror, rng):
    head = build(
        Part("SequenceClassifier", {"embed_dim": DIM, "num_classes": CLASSES, "dropout": 0.5}),
        mirror.package.__name__,
        {"rngs": nnx.Rngs(0)},
    )
    head.eval()
    x = vectors(rng)
    keep = rng.random((BATCH, DIM)) < 0.5
    found = head(mirror.array(x), dropout_keep=mirror.array(keep))
    assert difference(found, head(mirror.array((x * 2 * keep[:, None]).astype(np.float32)))) < 1e-6


@each_mirror
def test_hidden_states_and_weights_come_with_the_logits(mirror, rng):
    model = task_model(mirror, ENCODER, classifier())
    tokens = mirror.array(rng.integers(0, 17, (BATCH, LENGTH)).astype(np.int32))
    read = model(tokens, need_weights=True, need_hidden_states=True)
    assert numpy(read.logits).shape == numpy(read.output).shape == (BATCH, CLASSES)
    assert len(read.attentions) == 1
    assert [numpy(x).shape for x in read.hidden_states] == [(BATCH, LENGTH, DIM)] * 2
    assert difference(read.hidden_states[-1], read.last_hidden_state) == 0


@pytest.mark.parametrize(("writes", "reads"), [("torch", "jax"), ("jax", "torch")])
@pytest.mark.parametrize("made", TASK_MODELS, ids=lambda each: each.name)
def test_models_are_saved_and_loaded_in_the_other_framework(made, writes, reads, tmp_path, rng):
    model = MODULES[writes](made, "float32")
    save_pretrained(model, tmp_path)
    other = load_pretrained(tmp_path, reads)
    if "image" in made.name:
        given = rng.standard_normal((BATCH, 4, 6, 2)).astype(np.float32)
    else:
        given = rng.integers(0, 17, (BATCH, LENGTH)).astype(np.int32)
    one, two = model(MIRRORS[writes].array(given)), other(MIRRORS[reads].array(given))
    for field, x in zip(one._fields, one, strict=True):
        if field != "attentions" and x is not None:
            assert difference(x, getattr(two, field)) < 1e-5, field


@each_mirror
@pytest.mark.parametrize("made", TASK_MODELS, ids=lambda each: each.name)
def test_descriptions_survive_json(made, mirror):
    spec = build(made.module.arguments["config"], mirror.package.__name__, {})
    found = json.loads(json.dumps(spec.to_dict()))
    assert type(spec).from_dict(found) == spec
    for wrong, kind, message in (
        ({"head": found["head"]}, ValueError, "backbone"),
        ({**found, "tail": 1}, ValueError, "TaskSpec has backbone, head, got 'tail'"),
        ({**found, "backbone": 3}, TypeError, "backbone must be a mapping from names, got int"),
        ({**found, "head": {"arguments": {}}}, ValueError, "name"),
    ):
        with pytest.raises(kind, match=message):
            type(spec).from_dict(wrong)
    with pytest.raises(ValueError, match="backbone must have a class of EncoderConfig"):
        type(spec).from_dict({**found, "backbone": {**found["backbone"], "class": "Recurrent"}})


# transformers models with heads.
SIZES = {
    "vocab_size": 17,
    "hidden_size": DIM,
    "num_hidden_layers": 1,
    "num_attention_heads": 3,
    "intermediate_size": 13,
    "max_position_embeddings": 11,
}
PEERS = (
    "BertForSequenceClassification",
    "RobertaForSequenceClassification",
    "DistilBertForSequenceClassification",
    "BertForTokenClassification",
    "BertForQuestionAnswering",
    "BertForMaskedLM",
    "AlbertForMaskedLM",
    "DistilBertForMaskedLM",
    "LlamaForSequenceClassification",
    "GPT2ForSequenceClassification",
)
OWN_SIZES = {
    "gpt2": {"vocab_size": 17, "n_embd": DIM, "n_layer": 1, "n_head": 3, "n_inner": 13, "n_positions": 11},
    "distilbert": {
        "vocab_size": 17,
        "dim": DIM,
        "n_layers": 1,
        "n_heads": 3,
        "hidden_dim": 13,
        "max_position_embeddings": 11,
    },
}


def peer(name):
    """A transformers model with random weights, and the options of its call."""
    theirs = getattr(transformers, name)
    family = theirs.config_class.model_type
    sizes = {**OWN_SIZES.get(family, SIZES), "num_labels": 2 if "Question" in name else CLASSES}
    sizes |= {"embedding_size": 7} if family == "albert" else {}
    config = theirs.config_class(**sizes, pad_token_id=0)
    torch.manual_seed(0)
    model = theirs(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.4)
    return SimpleNamespace(model=model, config={**config.to_dict(), "architectures": [name]})


def ours(given, mirror):
    """This package's model, from the tensors and the configuration of transformers."""
    state = {name: numpy(x).copy() for name, x in given.model.state_dict().items()}
    reading = read_config(given.config, state)
    tensors, _ = weights.convert(state, reading.layout, "torch_attention", reading.axes)
    described = reading.model.arguments["config"].arguments
    return transfer(tensors, task_model(mirror, described["backbone"], described["head"]))


@each_mirror
@pytest.mark.parametrize("name", PEERS)
def test_models_with_heads_equal_those_of_transformers(name, mirror, rng):
    given = peer(name)
    tokens = rng.integers(1, 17, (3, LENGTH))
    mask = np.ones((3, LENGTH), np.int64)
    mask[1, 3:] = mask[2, 2:] = 0
    tokens[mask == 0] = 0
    with torch.no_grad():
        expected = given.model(torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask))
    model = ours(given, mirror)
    model.eval()
    found = model(mirror.array(tokens.astype(np.int32)), mirror.array(mask))
    names = ("start_logits", "end_logits") if "Question" in name else ("logits",)
    for each in names:
        right, have = numpy(getattr(expected, each)), numpy(getattr(found, each))
        if right.ndim > 1 and right.shape[1] == LENGTH:
            right, have = right[mask == 1], have[mask == 1]
        assert np.abs(have - right).max() <= 1e-5 * np.abs(right).max()
        assert np.abs(np.roll(have, 1, axis=0) - right).max() > 1e-2 * np.abs(right).max()
