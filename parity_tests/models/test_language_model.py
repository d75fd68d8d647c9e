"""Language models from descriptions: the proof of hybrids, and incremental decoding with every mixer that allows it."""

import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import jax_attention.models
import torch_attention.models
import torch_attention.models.depth
from attention_bridge.catalogue import CATALOGUE, Part
from attention_bridge.catalogue.part import build
from attention_bridge.catalogue.shared import EMBED
from attention_bridge.parity.instances import jax_module, torch_module
from attention_bridge.parity.proof import prove
from attention_bridge.pretrained import load_pretrained, save_pretrained
from attention_bridge.pretrained.families.describe import language_model, layer_spec, model_spec
from attention_bridge.weights import transfer
from attention_bridge.weights.containers import open_container
from parity_tests.helpers.built import MIRRORS, each_mirror, each_mirror_slow_in_jax
from parity_tests.helpers.hybrids import ENCODER, HYBRIDS
from parity_tests.helpers.program import program, read_on

VOCAB = 17
MODELS = {"torch": torch_attention.models, "jax": jax_attention.models}
each_hybrid = pytest.mark.parametrize("hybrid", HYBRIDS, ids=lambda each: each.name)


def numpy(x):
    return x.detach().numpy() if isinstance(x, torch.Tensor) else np.asarray(x)


def tokens_of(rng, length=7):
    return rng.integers(0, VOCAB, (2, length)).astype(np.int32)


def difference(one, other):
    one, other = numpy(one), numpy(other)
    return np.abs(one - other).max() / np.abs(other).max()


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
@each_hybrid
def test_hybrids_equal_the_oracle_forward_and_backward(hybrid, dtype):
    if dtype in hybrid.dtypes:
        verdict = prove(hybrid, dtype)
        print(verdict)
        assert verdict.ok, "\n".join(verdict.failures)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ENCODER.dtypes)
def test_encoder_equals_the_oracle_forward_and_backward(dtype):
    verdict = prove(ENCODER, dtype)
    assert verdict.ok, "\n".join(verdict.failures)


@each_mirror
def test_encoder_takes_types_is_bidirectional_and_rejects_caches(mirror, rng):
    model = {"torch": torch_module, "jax": jax_module}[mirror.name](ENCODER, "float32")
    tokens = tokens_of(rng)
    types = np.zeros_like(tokens)
    types[:, 4:] = 1
    found, array = numpy(model(mirror.array(tokens)).logits), mirror.array
    typed = numpy(model(array(tokens), token_types=array(types)).logits)
    assert difference(numpy(model(array(tokens), token_types=array(0 * types)).logits), found) == 0
    assert difference(typed, found) > 1e-2
    changed = tokens.copy()
    changed[:, -1] = (changed[:, -1] + 1) % VOCAB
    # the first position attends to later tokens
    assert difference(numpy(model(array(changed)).logits)[:, 0], found[:, 0]) > 1e-4
    with pytest.raises(NotImplementedError, match="is_causal=False has no incremental decoding"):
        model.start()
    with pytest.raises(NotImplementedError, match="is_causal=False has no incremental decoding"):
        mirror.package.models.generate(model, array(tokens), 2)


@each_mirror
def test_token_types_of_another_shape_raise(mirror, rng, as_shipped):
    model = {"torch": torch_module, "jax": jax_module}[mirror.name](ENCODER, "float32")
    tokens = mirror.array(tokens_of(rng))
    expected = r"token_types must have the shape of tokens, \(2, 7\), got \(2, 6\)"
    with pytest.raises(ValueError, match=expected):
        model(tokens, token_types=tokens[:, 1:])


NO_MIXERS = {
    "SinusoidalEmbedding": "must be a class that mixes one sequence",
    "LearnedEmbedding": "must be a class that mixes one sequence",
    "LightningIndexer": "must be a class that mixes one sequence",
    "HierarchicalAttentionPooling": "a part must be a class of this package",
    "AttentionPooling": r"must return a vector for each of \d positions, got",
    "PoolingByAttention": r"must return a vector for each of \d positions, got",
    "InducedSetAttentionBlock": "must be a class that mixes one sequence",
    "SlotAttention": "must be a class that mixes one sequence",
}
BOTH_SIDES = [
    each
    for each in CATALOGUE
    if each.inputs.keys() == {"x"}
    and each.inputs["x"][-1] == "embed"
    and each.family not in ("models", "vision")
    and not each.causal
    and each.name not in NO_MIXERS
]


@pytest.mark.parametrize("mechanism", BOTH_SIDES, ids=lambda each: each.name)
def test_every_mixer_of_one_sequence_works_in_an_encoder(mechanism, rng):
    """The layer adds the mixer's output for the normalised sequence."""
    torch.manual_seed(0)
    model = build(in_an_encoder(mechanism), "torch_attention", {}).eval()
    read = model.read(torch.from_numpy(tokens_of(rng, length_of(mechanism))), need_hidden_states=True)
    x, after = read.hidden_states
    alone = model.layers[0].attention(model.layers[0].attention_norm(x))
    assert difference(after, x + alone.output) < 1e-5


@each_mirror
@pytest.mark.parametrize("name", NO_MIXERS)
def test_class_that_mixes_no_sequence_raises_as_a_mixer(name, mirror, rng):
    (mechanism,) = [each for each in CATALOGUE if each.name == name]

    def run():
        model = build(in_an_encoder(mechanism), mirror.package.__name__, {"rngs": nnx.Rngs(0)})
        model(mirror.array(tokens_of(rng, length_of(mechanism))))

    with pytest.raises(ValueError, match=NO_MIXERS[name]):
        run()


def length_of(mechanism):
    """The sequence length in the proof of a catalogue entry."""
    return mechanism.shape(mechanism.inputs["x"])[1]


def in_an_encoder(mechanism):
    """An encoder of one layer whose mixer is a catalogue entry."""
    arguments = {name: x for name, x in mechanism.module.arguments.items() if name != "embed_dim"}
    embed_dim = mechanism.module.arguments.get("embed_dim", EMBED)
    layer = layer_spec(Part(mechanism.module.name, arguments), None, "pre", Part("rms_norm", {}))
    return language_model(model_spec(VOCAB, embed_dim, [layer], is_causal=False))


def in_chunks(model, array, tokens, mask, cuts, caches):
    """The logits of a text that is passed in chunks with caches."""
    found, start, step = [], 0, program(model, read_on)
    for end in (*cuts, tokens.shape[1]):
        part = None if mask is None else array(mask[..., start:end])
        logits, caches = step(array(tokens[:, start:end]), part, None, caches)
        found.append(numpy(logits))
        start = end
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("capacity", [None, 9])
@pytest.mark.parametrize("hidden", [0, 2])
@each_hybrid
def test_hybrids_decode_in_torch(hybrid, hidden, capacity, rng):
    hybrids_read_on(torch_module(hybrid, "float32"), torch.from_numpy, hidden, capacity, rng)


@pytest.mark.slow
@each_hybrid
def test_hybrids_decode_in_jax(hybrid, rng):
    hybrids_read_on(jax_module(hybrid, "float32"), jnp.asarray, 2, 9, rng)


def hybrids_read_on(model, array, hidden, capacity, rng):
    """Left padding, a prefill in two chunks, then token by token."""
    tokens = tokens_of(rng)
    mask = None
    if hidden:
        mask = np.ones((2, 1, 1, tokens.shape[1]), bool)
        mask[1, ..., :hidden] = False
    whole = numpy(program(model, read_on)(array(tokens), None if mask is None else array(mask))[0])
    found = in_chunks(model, array, tokens, mask, (3, 5, 6), model.start(capacity))
    there = np.ones(tokens.shape, bool) if mask is None else mask[:, 0, 0]
    assert difference(found[there], whole[there]) < 1e-5
    wrong = in_chunks(model, array, np.roll(tokens, 1, axis=0), mask, (3, 5, 6), model.start(capacity))
    assert difference(wrong[there], whole[there]) > 1e-2


@each_hybrid
def test_hybrids_generate_the_tokens_of_full_passes(hybrid, rng):
    generated_is_likeliest(MIRRORS["torch"], torch_module(hybrid, "float32"), hybrid, rng)


@pytest.mark.slow
@each_hybrid
def test_hybrids_generate_the_same_in_jax(hybrid, rng):
    generated_is_likeliest(MIRRORS["jax"], jax_module(hybrid, "float32"), hybrid, rng)


def generated_is_likeliest(mirror, model, hybrid, rng):
    tokens = tokens_of(rng, 4)
    mask = np.ones((2, 1, 1, 4), bool)
    mask[1, ..., :2] = False
    generate = mirror.package.models.generate
    found = numpy(generate(model, mirror.array(tokens), 3, mirror.array(mask)))
    reference = torch_module(hybrid, "float32")
    for text in range(2):
        read = tokens[text][mask[text, 0, 0]]
        for token in found[text]:
            logits = reference(torch.from_numpy(read[None].copy())).output[0, -1]
            assert int(logits.argmax()) == token
            read = np.append(read, token)


def as_mixer(mechanism):
    """A language model whose layers mix with the class of a catalogue entry."""
    arguments = {**mechanism.module.arguments, **mechanism.decoding_options}
    embed_dim = arguments.pop("embed_dim", EMBED)
    layer = layer_spec(Part(mechanism.module.name, arguments), None, "pre", Part("rms_norm", {}))
    return language_model(model_spec(VOCAB, embed_dim, [layer, layer]))


READING_ON = [
    each
    for each in CATALOGUE
    if each.decoding in ("cache", "state") and "x" in each.inputs and each.family != "cross"
]


def test_most_of_the_catalogue_has_incremental_decoding():
    assert len(READING_ON) >= 43


@pytest.mark.parametrize("mechanism", READING_ON, ids=lambda each: each.name)
def test_every_decoding_mixer_works_in_a_model(mechanism, rng):
    torch.manual_seed(0)
    model = build(as_mixer(mechanism), "torch_attention", {}).eval()
    tokens = tokens_of(rng)
    whole = model(torch.from_numpy(tokens)).output
    assert (
        difference(in_chunks(model, torch.from_numpy, tokens, None, (3, 5, 6), model.start(9)), whole) < 2e-5
    )


@pytest.mark.parametrize("mechanism", READING_ON, ids=lambda each: each.name)
def test_beams_of_a_batch_equal_those_of_each_text_alone(mechanism, rng):
    """Caches and states of every kind follow the selected beams."""
    torch.manual_seed(0)
    model = build(as_mixer(mechanism), "torch_attention", {}).eval()
    tokens = torch.from_numpy(tokens_of(rng, 4))
    search = partial(torch_attention.models.beam_search, model, num_tokens=4, num_beams=3)
    together = search(tokens)
    for text in range(2):
        alone = search(tokens[text : text + 1])
        assert together.tokens[text].tolist() == alone.tokens[0].tolist()
        assert difference(together.scores[text], alone.scores[0]) < 1e-5
    best, score = together.tokens[:, 0], together.scores[:, 0]
    read = model(torch.cat([tokens, best], dim=1)).logits[:, 3:-1].log_softmax(-1)
    assert difference(read.gather(-1, best[..., None]).sum((1, 2)) / 4, score) < 1e-4
    likeliest = torch_attention.models.generate(model, tokens, 4)
    assert search(tokens, num_beams=1).tokens[:, 0].tolist() == likeliest.tolist()


FIXED = {"ChunkedAttention", "MixtureOfBlockAttention", "NativeSparseAttention", "StreamingAttention"}


@pytest.mark.parametrize("mechanism", READING_ON, ids=lambda each: each.name)
def test_padded_prompt_equals_the_prompt_alone_or_raises(mechanism, rng):
    """With every mixer, padding on either side, in a call and in generation."""
    torch.manual_seed(0)
    model = build(as_mixer(mechanism), "torch_attention", {}).eval()
    generate, tokens = torch_attention.models.generate, tokens_of(rng, 9)
    mask = np.ones(tokens.shape, bool)
    mask[1, :4] = False
    alone = torch.from_numpy(tokens[1:, 4:].copy())
    front, behind = (
        torch.from_numpy(np.where(m, x, 0))
        for m, x in ((mask, tokens), (mask[:, ::-1], np.roll(tokens, -4, 1)))
    )
    masks = torch.from_numpy(mask), torch.from_numpy(mask[:, ::-1].copy())
    assert difference(model(behind, masks[1]).logits[1:, :5], model(alone).logits) < 2e-5
    if mechanism.name in FIXED:
        refusal = pytest.raises(
            NotImplementedError, match=f"{mechanism.name} takes no padding in front of tokens"
        )
        for call in (
            lambda: model(front, masks[0]),
            *(partial(generate, model, x, 3, m) for x, m in zip((front, behind), masks, strict=True)),
        ):
            with refusal:
                call()
        assert generate(model, alone, 3, torch.ones_like(alone)).shape == (1, 3)
        return
    assert difference(model(front, masks[0]).logits[1:, 4:], model(alone).logits) < 2e-5
    expected = generate(model, alone, 3).tolist()
    for x, m in zip((front, behind), masks, strict=True):
        assert generate(model, x, 3, m)[1:].tolist() == expected


@each_mirror
@pytest.mark.parametrize("name", sorted(FIXED))
def test_left_padding_raises_for_mixers_with_fixed_positions(name, mirror, rng):
    (mechanism,) = [each for each in CATALOGUE if each.name == name]
    model = build(as_mixer(mechanism), mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    tokens, mask = tokens_of(rng, 6), np.ones((2, 6), bool)
    mask[1, :2] = False
    for padding in (mask, mask[:, ::-1].copy()):
        with pytest.raises(NotImplementedError, match=f"{name} takes no padding in front of tokens"):
            mirror.package.models.generate(model, mirror.array(tokens), 2, mirror.array(padding))


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", READING_ON, ids=lambda each: each.name)
def test_every_decoding_mixer_works_in_a_model_in_jax(mechanism, rng):
    model = build(as_mixer(mechanism), "jax_attention", {"rngs": nnx.Rngs(0)})
    model.eval()
    tokens = tokens_of(rng)
    whole, _ = program(model, read_on)(jnp.asarray(tokens))
    assert difference(in_chunks(model, jnp.asarray, tokens, None, (3, 6), model.start(9)), whole) < 2e-5


@each_mirror
def test_mixer_without_decoding_says_why(mirror, rng):
    (mechanism,) = [each for each in CATALOGUE if each.name == "LSHAttention"]
    model = build(as_mixer(mechanism), mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    assert numpy(model(mirror.array(tokens_of(rng, 8))).output).shape == (2, 8, VOCAB)
    for call in (
        model.start,
        lambda: mirror.package.models.generate(model, mirror.array(tokens_of(rng, 8)), 2),
    ):
        with pytest.raises(NotImplementedError, match=re.escape(mechanism.no_decoding)):
            call()


RMS, ATTENTION = Part("rms_norm"), Part("CausalSelfAttention", {"num_heads": 2})
FFN = Part("GatedFeedForward", {"ffn_dim": 5})


@pytest.mark.parametrize(
    ("mixer", "ffn", "arrangement", "text"),
    [
        (Part("Linear"), FFN, "pre", "a part must be a class of this package"),
        (Part("MultiHeadSelfAttention", {"num_heads": 2}), FFN, "pre", "must see no later token"),
        (Part("CrossAttention", {"query_dim": 8, "key_dim": 8}), FFN, "pre", "mixes one sequence"),
        (Part("CausalSelfAttention", {"num_heads": 3}), FFN, "pre", "embed_dim must be divisible"),
        (Part("CausalSelfAttention", {"heads": 3}), FFN, "pre", "takes no argument 'heads'"),
        (Part("CausalSelfAttention"), FFN, "pre", "num_heads"),
        (ATTENTION, FFN, "both", "arrangement must be one of pre, pre_feed_forward"),
        (ATTENTION, None, "parallel", "needs a feed-forward network beside the mixer"),
        (ATTENTION, Part("GatedFeedForward", {"ffn_dim": 5, "activation": "?"}), "pre", "activation must be"),
    ],
)  # fmt: skip
@each_mirror
def test_impossible_description_raises(mirror, mixer, ffn, arrangement, text):
    part = language_model(model_spec(VOCAB, 8, [layer_spec(mixer, ffn, arrangement, RMS)]))
    with pytest.raises(ValueError, match=re.escape(text)):
        build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)})


@pytest.mark.parametrize(
    ("caches", "exception", "text"),
    [
        (lambda m: (None, m.GrowingCache()), None, ""),
        (lambda m: (m.GrowingCache(), m.GrowingCache()), TypeError, "a state for GatedDeltaNet, or None"),
        (lambda m: (None, None), TypeError, "must hold a cache for CausalSelfAttention, got None"),
        (lambda m: (None,), ValueError, "one for each of 2 layers, got 1"),
    ],
)
@each_mirror_slow_in_jax
def test_caches_must_fit_their_layers(mirror, caches, exception, text, rng):
    memory = Part("GatedDeltaNet", {"num_heads": 2, "head_dim": 4})
    layers = [layer_spec(mixer, None, "pre", RMS) for mixer in (memory, ATTENTION)]
    model = build(
        language_model(model_spec(VOCAB, 8, layers)), mirror.package.__name__, {"rngs": nnx.Rngs(0)}
    )
    given = {"caches": caches(mirror.package)}
    if exception is None:
        assert len(model(mirror.array(tokens_of(rng)), **given).caches) == 2
        return
    with pytest.raises(exception, match=re.escape(text)):
        model(mirror.array(tokens_of(rng)), **given)


@each_hybrid
def test_description_survives_json_and_is_the_same_in_both_mirrors(hybrid):
    spec = hybrid.module.arguments["config"]
    ours, theirs = (build(spec, f"{name}_attention", {}) for name in MODELS)
    written = json.loads(json.dumps(ours.to_dict()))
    assert written == theirs.to_dict()
    for models, kept in zip(MODELS.values(), (ours, theirs), strict=True):
        again = models.ModelSpec.from_dict(written)
        assert again == kept
        assert hash(again) == hash(kept)
    changed = json.loads(json.dumps(written).replace('"num_heads": 3', '"num_heads": 6').replace("5", "6"))
    assert torch_attention.models.ModelSpec.from_dict(changed) != ours


@pytest.mark.slow
@each_hybrid
def test_hybrids_are_saved_and_loaded_in_the_other_framework(hybrid, tmp_path, rng):
    model = torch_module(hybrid, "float32")
    save_pretrained(model, tmp_path)
    other = load_pretrained(tmp_path, "jax")
    assert other.config.to_dict() == model.config.to_dict()
    tokens = tokens_of(rng)
    assert difference(other(jnp.asarray(tokens)).output, model(torch.from_numpy(tokens)).output) < 1e-5


ARRANGED = (
    "pre",
    "pre_feed_forward",
    "post",
    "sandwich",
    "sandwich_mixer",
    "output",
    "parallel",
    "parallel_shared_norm",
)


def rms(scale, x):
    return scale * x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6)


@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("arrangement", ARRANGED)
@each_mirror
def test_arrangements_equal_their_equations(mirror, arrangement, scale, rng):
    """Each computed from separate calls of its sublayers, whose outputs are scaled before the addition."""
    torch.manual_seed(1)
    described = layer_spec(ATTENTION, FFN, arrangement, RMS)
    described = Part("LayerSpec", {**described.arguments, "residual_scale": scale})
    part = language_model(model_spec(VOCAB, 8, [described]))
    made = build(part, "torch_attention", {})
    with torch.no_grad():
        for name, x in made.named_parameters():
            x.add_(0.3 * torch.randn_like(x)) if "norm" in name else None
    state = {name: numpy(x) for name, x in made.state_dict().items()}
    if mirror.name == "jax":
        made = transfer(state, build(part, "jax_attention", {"rngs": nnx.Rngs(0)}))
    layer = made.layers[0]
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)

    def mix(y):
        return numpy(layer.attention(mirror.array(y.astype(np.float32))).output)

    def ffn(y):
        return numpy(layer.ffn(mirror.array(y.astype(np.float32))))

    def norm(name, y):
        return rms(state[f"layers.0.{name}_norm.weight"], y)

    if arrangement == "pre":
        expected = x + scale * mix(norm("attention", x))
        expected = expected + scale * ffn(norm("ffn", expected))
    elif arrangement == "pre_feed_forward":
        expected = x + scale * mix(x)
        expected = expected + scale * ffn(norm("ffn", expected))
    elif arrangement == "post":
        expected = norm("attention", x + scale * mix(x))
        expected = norm("ffn", expected + scale * ffn(expected))
    elif arrangement == "sandwich":
        expected = x + scale * norm("attention_output", mix(norm("attention", x)))
        expected = expected + scale * norm("ffn_output", ffn(norm("ffn", expected)))
    elif arrangement == "sandwich_mixer":
        expected = x + scale * norm("attention_output", mix(norm("attention", x)))
        expected = expected + scale * norm("ffn_output", ffn(expected))
    elif arrangement == "output":
        expected = x + scale * norm("attention_output", mix(x))
        expected = expected + scale * norm("ffn_output", ffn(expected))
    elif arrangement == "parallel":
        expected = x + scale * (mix(norm("attention", x)) + ffn(norm("ffn", x)))
    else:
        expected = x + scale * (mix(norm("attention", x)) + ffn(norm("attention", x)))
    call = {"positions": None, "position": None, "memory": None, "reads_on": False, "need_weights": False}
    assert difference(layer(mirror.array(x), **call).output, expected) < 1e-5


@pytest.mark.parametrize("tied", [False, True])
@each_mirror
def test_logits_have_a_bias_a_scale_and_a_bound(mirror, tied, rng):
    options = {"tied": tied, "head_bias": True, "logit_scale": 0.3, "logit_softcap": 2.0}
    part = language_model(model_spec(VOCAB, 8, [layer_spec(ATTENTION, FFN, "pre", RMS)], **options))
    bias = rng.standard_normal(VOCAB).astype(np.float32)
    table = rng.standard_normal((VOCAB, 8)).astype(np.float32)
    state = {name: numpy(x) for name, x in build(part, "torch_attention", {}).state_dict().items()}
    state |= {"head_bias": bias, "token_embedding.weight" if tied else "head.weight": table}
    made = transfer(state, build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)}))
    x = rng.standard_normal((2, 5, 8)).astype(np.float32)
    expected = 2.0 * np.tanh(0.3 * (x @ table.T + bias) / 2.0)
    assert difference(made.logits(mirror.array(x)), expected) < 1e-5


@pytest.mark.parametrize("tied", [False, True])
@each_mirror
def test_projected_tokens_with_sinusoidal_positions_equal_their_equations(mirror, tied, rng):
    """Whole and token by token, with positions that start at 2."""
    position = Part("SinusoidalEmbedding", {"base": 30.0, "interleaved": False})
    options = {"token_dim": 5, "embedding_position": position, "first_position": 2, "embed_scale": 3.0}
    part = language_model(
        model_spec(VOCAB, 8, [layer_spec(ATTENTION, FFN, "pre", RMS)], tied=tied, **options)
    )
    torch.manual_seed(2)
    state = {name: numpy(x) for name, x in build(part, "torch_attention", {}).state_dict().items()}
    state = {name: x if "norm" in name else 10.0 * x for name, x in state.items()}
    made = transfer(state, build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)}))
    tokens = tokens_of(rng)
    read = made(mirror.array(tokens), need_hidden_states=True)
    angles = (np.arange(7) + 2)[:, None] * 30.0 ** (-np.arange(4) / 4)
    first = 3.0 * state["token_embedding.weight"][tokens] @ state["embedding_proj.weight"].T
    first = first + np.concatenate([np.sin(angles), np.cos(angles)], -1)
    assert difference(read.hidden_states[0], first) < 1e-5
    last = rms(state["final_norm.weight"], numpy(read.hidden_states[-1])) @ state["output_proj.weight"].T
    assert difference(made.read(mirror.array(tokens)).output, last) < 1e-5
    table = state["token_embedding.weight" if tied else "head.weight"]
    assert difference(read.logits, last @ table.T) < 1e-5
    assert difference(in_chunks(made, mirror.array, tokens, None, (3, 6), made.start(9)), read.logits) < 2e-5


@each_mirror
def test_left_padding_shifts_no_sinusoidal_position(mirror, rng):
    position = Part("SinusoidalEmbedding", {"interleaved": False})
    spec = model_spec(VOCAB, 8, [layer_spec(ATTENTION, FFN, "pre", RMS)], embedding_position=position)
    tokens = mirror.array(tokens_of(rng))
    padding = mirror.array(np.arange(7)[None].repeat(2, 0) >= 2)
    made = build(language_model(spec), mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    alone = mirror.package.models.generate(made, tokens[:, 2:], 3)
    padded = mirror.package.models.generate(made, tokens, 3, padding)
    np.testing.assert_array_equal(numpy(alone), numpy(padded))
    task = Part("TaskModel", {"config": Part("TaskSpec", {"backbone": spec, "head": Part("NoHead")})})
    made = build(task, mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    found = numpy(made(tokens, padding).last_hidden_state)[:, 2:]
    assert difference(found, made(tokens[:, 2:]).last_hidden_state) < 1e-5


@each_mirror
def test_embedding_position_must_be_an_absolute_embedding(mirror):
    part = language_model(
        model_spec(VOCAB, 8, [layer_spec(ATTENTION, FFN, "pre", RMS)], embedding_position=Part("ALiBi"))
    )
    with pytest.raises(ValueError, match="embedding_position must be a positional embedding such as Sin"):
        build(part, mirror.package.__name__, {"rngs": nnx.Rngs(0)})


def deep(scan_layers=False, remat=False, layers=((1, 2), (0, 3), (2, 1))):
    """A model with runs of equal layers: recurrent layers, attention with dropout, windows."""
    kinds = (
        Part("CausalSelfAttention", {"num_heads": 2}),
        Part("GatedDeltaNet", {"num_heads": 2, "head_dim": 4}),
        Part("SlidingWindowAttention", {"num_heads": 2, "window": 3}),
    )
    run = [layer_spec(kinds[kind], FFN, "pre", RMS) for kind, count in layers for _ in range(count)]
    part = language_model(model_spec(VOCAB, 8, run))
    return Part(part.name, {**part.arguments, "scan_layers": scan_layers, "remat": remat})


def results(mirror, part, weights, tokens):
    """Logits, attention weights, hidden states and gradients of a model, as numpy arrays."""
    if mirror.name == "torch":
        model = transfer(dict(weights), build(part, "torch_attention", {}).eval())
        read = model(torch.from_numpy(tokens), need_weights=True, need_hidden_states=True)
        read.logits.square().mean().backward()
        gradients = [numpy(x.grad) for x in model.parameters()]
    else:
        model = transfer(dict(weights), build(part, "jax_attention", {"rngs": nnx.Rngs(0)}))
        model.eval()

        def loss(model):
            read = model(jnp.asarray(tokens), need_weights=True, need_hidden_states=True)
            return jnp.square(read.logits).mean(), read

        (_, read), slopes = nnx.value_and_grad(loss, has_aux=True)(model)
        gradients = [np.asarray(x) for x in jax.tree.leaves(slopes)]
    return [numpy(x) for x in (read.logits, *read.attentions, *read.hidden_states)], gradients


@pytest.mark.parametrize(
    ("mirror", "scan_layers", "remat"),
    [
        ("torch", False, True),
        # PyTorch cannot compile the tests' shape checks; the slow tests run without them.
        pytest.param("torch", True, False, marks=pytest.mark.slow),
        pytest.param("torch", True, True, marks=pytest.mark.slow),
        pytest.param("jax", False, True, marks=pytest.mark.slow),
        pytest.param("jax", True, False, marks=pytest.mark.slow),
        ("jax", True, True),
    ],
)
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # raised by PyTorch's compiler
def test_scanned_and_rematerialised_layers_give_the_same(mirror, scan_layers, remat, rng, monkeypatch):
    mirror = MIRRORS[mirror]
    run = torch.compile(torch_attention.models.depth._run, backend="eager")
    monkeypatch.setattr(torch_attention.models.depth, "_compiled", lambda: run)
    torch.manual_seed(0)
    weights = build(deep(), "torch_attention", {}).state_dict()
    tokens = tokens_of(rng)
    plain = results(mirror, deep(), weights, tokens)
    found = results(mirror, deep(scan_layers, remat), weights, tokens)
    assert [len(part) for part in found] == [len(part) for part in plain]
    assert len(found[0]) == 1 + 6 + 7
    for ours, right in zip(found, plain, strict=True):
        largest = max(np.abs(x).max() for x in right)
        for one, other in zip(ours, right, strict=True):
            assert np.abs(one - other).max() < 2e-5 * largest


@each_mirror_slow_in_jax
def test_scanned_models_have_the_same_checkpoint_and_decode(mirror, rng):
    """With caches, layers run one by one."""
    torch.manual_seed(0)
    weights = build(deep(), "torch_attention", {}).state_dict()
    model = build(deep(True, True), mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    model.eval()
    assert container_names(model) == container_names(
        build(deep(), mirror.package.__name__, {"rngs": nnx.Rngs(0)})
    )
    model = transfer(dict(weights), model)
    tokens = tokens_of(rng)
    model.scan_layers = False
    whole = numpy(model(mirror.array(tokens)).logits)
    model.scan_layers = True
    assert difference(in_chunks(model, mirror.array, tokens, None, (3, 6), model.start(9)), whole) < 1e-5


def container_names(model):
    return sorted(open_container(model).leaves)


def test_program_in_jax_does_not_grow_with_the_depth():
    """Counted in lines of the jaxpr, before compilation."""

    def size(count, scan_layers):
        part = deep(scan_layers, layers=((0, count),))
        model = build(part, "jax_attention", {"rngs": nnx.Rngs(0)})
        model.eval()
        graphdef, state = nnx.split(model)
        tokens = jnp.zeros((2, 5), jnp.int32)
        program = jax.make_jaxpr(lambda state: nnx.merge(graphdef, state)(tokens).logits)(state)
        return len(str(program).splitlines())

    assert size(24, True) < 2 * size(2, True)
    assert size(24, False) > 6 * size(2, False)


def test_dropout_differs_in_every_scanned_layer_and_call():
    attention = Part("CausalSelfAttention", {"num_heads": 2, "dropout": 0.5})
    part = language_model(model_spec(VOCAB, 8, [layer_spec(attention, None, "pre", RMS)] * 3))
    part = Part(part.name, {**part.arguments, "scan_layers": True})
    model = build(part, "jax_attention", {"rngs": nnx.Rngs(0)})
    tokens = jnp.zeros((2, 9), jnp.int32)
    one, other = (model(tokens).logits for _ in range(2))
    assert np.abs(one - other).max() > 1e-4
    model.eval()
    assert np.array_equal(model(tokens).logits, model(tokens).logits)


def test_changed_layer_is_not_scanned_with_the_others():
    """An option changed after construction is kept, although the layer's description is unchanged."""
    found = []
    for scan_layers in (False, True):
        model = build(deep(scan_layers, layers=((0, 4),)), "jax_attention", {"rngs": nnx.Rngs(0)})
        model.eval()
        model.layers[2].attention.scale = 3.0
        found.append(model(jnp.asarray(tokens_of(np.random.default_rng(0)))).logits)
    assert difference(*found) < 1e-5
    model.layers[2].attention.scale = model.layers[1].attention.scale
    assert difference(model(jnp.asarray(tokens_of(np.random.default_rng(0)))).logits, found[0]) > 1e-4


@each_mirror
def test_numpy_numbers_in_a_description_become_python_numbers(mirror):
    kind = mirror.package.models.Part
    given = kind("rms_norm", {"dim": np.int64(3), "eps": np.float32(0.5), "unit_offset": np.True_})
    assert given == kind("rms_norm", {"dim": 3, "eps": 0.5, "unit_offset": True})
    assert json.loads(json.dumps(given.to_dict())) == given.to_dict()
    with pytest.raises(
        TypeError, match="dim of rms_norm must be a number, a string, a sequence of these or a Part"
    ):
        kind("rms_norm", {"dim": np.ones(2)})
