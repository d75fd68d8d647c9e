"""Peers of the Transformer and its parts."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
import torch.nn.functional as F
from flax import nnx
from torch import nn
from transformers import BartConfig, BertConfig, BertModel, GPT2Config, GPT2LMHeadModel
from transformers.models.bart.modeling_bart import BartAttention, BartDecoderLayer
from transformers.models.gpt2.modeling_gpt2 import GPT2Attention

from attention_bridge.catalogue import Part
from attention_bridge.weights import convert
from parity_tests.peers import Comparison, numpy, peer, randomise, weights_of

BATCH, HEADS, QUERY, KEY, EMBED, MEMORY, FFN = 2, 3, 5, 7, 12, 10, 13
HEAD_DIM = EMBED // HEADS
DECODER = {
    "self_attn": "self_attention",
    "multihead_attn": "cross_attention",
    "linear1": "ffn.up_proj",
    "linear2": "ffn.down_proj",
    "norm1": "self_norm",
    "norm2": "cross_norm",
    "norm3": "ffn_norm",
}


def seeing(rng, *shape):
    """A random mask that never masks the first key."""
    mask = rng.random(shape) < 0.6
    mask[..., 0] = True
    return mask


def t(x):
    """Convert a NumPy array to a tensor."""
    return torch.from_numpy(x)


def additive(mask, dtype=np.float64):
    """The mask as a bias of 0 and -inf."""
    return t(np.where(mask, 0.0, -np.inf).astype(dtype))


# Scaled dot-product attention.


def query_key_value(rng, dtype=np.float64):
    shapes = {"query": (BATCH, QUERY, 8), "key": (BATCH, KEY, 8), "value": (BATCH, KEY, 6)}
    given = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    return given, seeing(rng, BATCH, QUERY, KEY)


@peer("ScaledDotProductAttention", "torch scaled_dot_product_attention")
def torch_function(rng: np.random.Generator) -> Comparison:
    given, mask = query_key_value(rng)
    output = F.scaled_dot_product_attention(*map(t, given.values()), attn_mask=t(mask))
    module = Part("ScaledDotProductAttention")
    return Comparison(module, {}, {**given, "mask": mask}, {"output": numpy(output)})


@peer("ScaledDotProductAttention", "jax.nn.dot_product_attention")
def jax_function(rng: np.random.Generator) -> Comparison:
    given, mask = query_key_value(rng, np.float32)  # it does not keep float64
    given["value"] = np.concatenate([given["value"], given["value"][..., :2]], axis=-1)  # equal head dims
    query, key, value = (jnp.asarray(x)[:, :, None] for x in given.values())
    output = jax.nn.dot_product_attention(query, key, value, mask=jnp.asarray(mask)[:, None])[:, :, 0]
    module = Part("ScaledDotProductAttention")
    return Comparison(module, {}, {**given, "mask": mask}, {"output": np.asarray(output)})


# One head of nn.MultiheadAttention, with the identity as output projection.


def one_head(rng, **options):
    theirs = nn.MultiheadAttention(EMBED, 1, batch_first=True, dtype=torch.float64, **options)
    randomise(theirs, rng)
    with torch.no_grad():
        theirs.out_proj.weight.copy_(torch.eye(EMBED))
        theirs.out_proj.bias.zero_()
    weights = weights_of_torch(theirs)
    return theirs, {name: x for name, x in weights.items() if not name.startswith("out_proj")}


def weights_of_torch(theirs):
    """The weights of nn.MultiheadAttention by the mirrors' names."""
    return convert(
        {name: numpy(x) for name, x in theirs.state_dict().items()}, "torch.mha", "torch_attention"
    )[0]


def run_torch(theirs, query, memory, mask):
    """Output and weights of nn.MultiheadAttention; True in its mask means masked."""
    output, weights = theirs(query, memory, memory, attn_mask=~t(mask), average_attn_weights=False)
    return {"output": numpy(output), "weights": numpy(weights)}


@peer("SelfAttention", "torch MultiheadAttention")
def torch_self_attention(rng: np.random.Generator) -> Comparison:
    theirs, weights = one_head(rng)
    x, mask = rng.standard_normal((BATCH, QUERY, EMBED)), seeing(rng, BATCH, QUERY, QUERY)
    expected = run_torch(theirs, t(x), t(x), mask)
    expected["weights"] = expected["weights"][:, 0]
    return Comparison(Part("SelfAttention", {"embed_dim": EMBED}), weights, {"x": x, "mask": mask}, expected)


@peer("CrossAttention", "torch MultiheadAttention")
def torch_cross_attention(rng: np.random.Generator) -> Comparison:
    theirs, weights = one_head(rng, kdim=MEMORY, vdim=MEMORY)
    given = {
        "query": rng.standard_normal((BATCH, QUERY, EMBED)),
        "memory": rng.standard_normal((BATCH, KEY, MEMORY)),
    }
    mask = seeing(rng, BATCH, QUERY, KEY)
    expected = run_torch(theirs, t(given["query"]), t(given["memory"]), mask)
    expected["weights"] = expected["weights"][:, 0]
    module = Part("CrossAttention", {"query_dim": EMBED, "key_dim": MEMORY, "embed_dim": EMBED})
    return Comparison(module, weights, {**given, "mask": mask}, expected)


# Several heads.

SELF = {"embed_dim": EMBED, "num_heads": HEADS}
CROSS = {"query_dim": EMBED, "key_dim": MEMORY, **SELF}


def sequence(rng, dtype=np.float64):
    return rng.standard_normal((BATCH, QUERY, EMBED)).astype(dtype)


@peer("MultiHeadSelfAttention", "torch MultiheadAttention")
def torch_multi_head(rng: np.random.Generator) -> Comparison:
    theirs = nn.MultiheadAttention(EMBED, HEADS, batch_first=True, dtype=torch.float64)
    randomise(theirs, rng)
    x, mask = sequence(rng), seeing(rng, BATCH, HEADS, QUERY, QUERY)
    expected = run_torch(theirs, t(x), t(x), mask.reshape(-1, QUERY, QUERY))
    module = Part("MultiHeadSelfAttention", SELF)
    return Comparison(module, weights_of_torch(theirs), {"x": x, "mask": mask}, expected)


@peer("CausalSelfAttention", "torch MultiheadAttention")
def torch_causal(rng: np.random.Generator) -> Comparison:
    theirs = nn.MultiheadAttention(EMBED, HEADS, batch_first=True, dtype=torch.float64)
    randomise(theirs, rng)
    x = sequence(rng)
    expected = run_torch(theirs, t(x), t(x), np.tri(QUERY, dtype=bool))
    return Comparison(Part("CausalSelfAttention", SELF), weights_of_torch(theirs), {"x": x}, expected)


@peer("MultiHeadCrossAttention", "torch MultiheadAttention")
def torch_multi_head_cross(rng: np.random.Generator) -> Comparison:
    theirs = nn.MultiheadAttention(
        EMBED, HEADS, kdim=MEMORY, vdim=MEMORY, batch_first=True, dtype=torch.float64
    )
    randomise(theirs, rng)
    query, memory = sequence(rng), rng.standard_normal((BATCH, KEY, MEMORY))
    mask = seeing(rng, BATCH, HEADS, QUERY, KEY)
    expected = run_torch(theirs, t(query), t(memory), mask.reshape(-1, QUERY, KEY))
    given = {"query": query, "memory": memory, "mask": mask}
    return Comparison(Part("MultiHeadCrossAttention", CROSS), weights_of_torch(theirs), given, expected)


def flax(rng, mask, *inputs, **options):
    """The parameters of nnx.MultiHeadAttention by the mirrors' names, and its output and attention weights."""
    with jax.enable_x64(True):
        theirs = nnx.MultiHeadAttention(
            HEADS, EMBED, **options, decode=False, param_dtype="float64", rngs=nnx.Rngs(0)
        )
        weights = {}
        for path, parameter in nnx.to_flat_state(nnx.state(theirs, nnx.Param)):
            parameter[...] = jnp.asarray(0.5 * rng.standard_normal(parameter.shape))
            name, kind = path
            proj = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}[name]
            if kind == "bias":
                weights[f"{proj}.bias"] = numpy(parameter[...]).reshape(-1)
            else:  # (in, head, head_dim); (head, head_dim, out) for the output projection
                rows = EMBED if name == "out" else parameter.shape[0]
                weights[f"{proj}.weight"] = numpy(parameter[...]).reshape(rows, -1).T.copy()
        watched = nnx.capture(theirs, nnx.Intermediate)  # with weights it stays in float64
        output, sown = watched(*map(jnp.asarray, inputs), mask=jnp.asarray(mask), sow_weights=True)
        return weights, {"output": numpy(output), "weights": numpy(sown["attention_weights"][0])}


@peer("MultiHeadSelfAttention", "flax nnx.MultiHeadAttention")
def flax_multi_head(rng: np.random.Generator) -> Comparison:
    x, mask = sequence(rng), seeing(rng, BATCH, HEADS, QUERY, QUERY)
    weights, expected = flax(rng, mask, x)
    return Comparison(Part("MultiHeadSelfAttention", SELF), weights, {"x": x, "mask": mask}, expected)


@peer("MultiHeadCrossAttention", "flax nnx.MultiHeadAttention")
def flax_multi_head_cross(rng: np.random.Generator) -> Comparison:
    query, memory = sequence(rng), rng.standard_normal((BATCH, KEY, MEMORY))
    mask = seeing(rng, BATCH, HEADS, QUERY, KEY)
    weights, expected = flax(rng, mask, query, memory, in_kv_features=MEMORY)
    given = {"query": query, "memory": memory, "mask": mask}
    return Comparison(Part("MultiHeadCrossAttention", CROSS), weights, given, expected)


def eager(config):
    config._attn_implementation = "eager"
    return config


@peer("CausalSelfAttention", "transformers GPT2Attention")
def gpt2(rng: np.random.Generator) -> Comparison:
    theirs = GPT2Attention(eager(GPT2Config(n_embd=EMBED, n_head=HEADS)), layer_idx=0).double().eval()
    randomise(theirs, rng)
    x = sequence(rng)
    output, weights = theirs(t(x), attention_mask=additive(np.tri(QUERY, dtype=bool))[None, None])
    state = {name: numpy(x) for name, x in theirs.state_dict().items()}  # GPT-2's matrices are (in, out)
    ours = {"out_proj.weight": state["c_proj.weight"].T.copy(), "out_proj.bias": state["c_proj.bias"]}
    for kind in ("weight", "bias"):
        for name, x_of_it in zip("qkv", np.split(state[f"c_attn.{kind}"], 3, axis=-1), strict=True):
            ours[f"{name}_proj.{kind}"] = x_of_it.T.copy()
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(Part("CausalSelfAttention", SELF), ours, {"x": x}, expected)


def bart_config():
    return eager(BartConfig(d_model=EMBED, decoder_attention_heads=HEADS, decoder_ffn_dim=FFN))


@peer("MultiHeadCrossAttention", "transformers BartAttention")
def bart(rng: np.random.Generator) -> Comparison:
    theirs = BartAttention(EMBED, HEADS, config=bart_config(), layer_idx=0).double().eval()
    randomise(theirs, rng)
    query, memory = sequence(rng), rng.standard_normal((BATCH, KEY, EMBED))
    mask = seeing(rng, BATCH, 1, QUERY, KEY)
    output, weights = theirs(t(query), key_value_states=t(memory), attention_mask=additive(mask))
    module = Part("MultiHeadCrossAttention", {**CROSS, "key_dim": EMBED})
    names = {f"{name}_proj": f"{name}_proj" for name in ("q", "k", "v", "out")}
    given = {"query": query, "memory": memory, "mask": mask}
    expected = {"output": numpy(output), "weights": numpy(weights)}
    return Comparison(module, weights_of(theirs, **names), given, expected)


# Decoder blocks and encoders.


def decoder(rng, *, norm_first):
    theirs = nn.TransformerDecoderLayer(
        EMBED,
        HEADS,
        FFN,
        dropout=0.0,
        activation="gelu",
        norm_first=norm_first,
        batch_first=True,
        dtype=torch.float64,
    )
    randomise(theirs, rng)
    given = {
        "x": sequence(rng),
        "memory": rng.standard_normal((BATCH, KEY, EMBED)),
        "self_mask": seeing(rng, QUERY, QUERY),
        "memory_mask": seeing(rng, BATCH, 1, 1, KEY),
    }
    output = theirs(
        t(given["x"]),
        t(given["memory"]),
        tgt_mask=~t(given["self_mask"] & np.tri(QUERY, dtype=bool)),
        memory_key_padding_mask=~t(given["memory_mask"][:, 0, 0]),
    )
    weights = {}
    for part, target in DECODER.items():
        of_part = weights_of(theirs, **{part: part})
        of_part = {name.removeprefix(f"{part}."): x for name, x in of_part.items()}
        if "in_proj_weight" in of_part:
            of_part = convert(of_part, "torch.mha", "torch_attention")[0]
        weights.update({f"{target}.{name}": x for name, x in of_part.items()})
    arguments = {**SELF, "ffn_dim": FFN, "activation": "gelu", "norm_first": norm_first}
    return Comparison(Part("EncoderDecoderAttention", arguments), weights, given, {"output": numpy(output)})


@peer("EncoderDecoderAttention-post", "torch TransformerDecoderLayer")
def torch_decoder(rng: np.random.Generator) -> Comparison:
    return decoder(rng, norm_first=False)


@peer("EncoderDecoderAttention-pre", "torch TransformerDecoderLayer with norm_first")
def torch_decoder_with_norm_first(rng: np.random.Generator) -> Comparison:
    return decoder(rng, norm_first=True)


@peer("EncoderDecoderAttention-post", "transformers BartDecoderLayer")
def bart_decoder(rng: np.random.Generator) -> Comparison:
    theirs = BartDecoderLayer(bart_config(), layer_idx=0).double().eval()
    randomise(theirs, rng)
    x, memory = sequence(rng), rng.standard_normal((BATCH, KEY, EMBED))
    mask = seeing(rng, BATCH, 1, 1, KEY)
    output = theirs(
        t(x),
        attention_mask=additive(np.tri(QUERY, dtype=bool))[None, None],
        encoder_hidden_states=t(memory),
        encoder_attention_mask=additive(np.broadcast_to(mask, (BATCH, 1, QUERY, KEY))),
    )
    names = {
        "self_attention": "self_attn",
        "cross_attention": "encoder_attn",
        "ffn.up_proj": "fc1",
        "ffn.down_proj": "fc2",
        "self_norm": "self_attn_layer_norm",
        "cross_norm": "encoder_attn_layer_norm",
        "ffn_norm": "final_layer_norm",
    }
    module = Part("EncoderDecoderAttention", {**SELF, "ffn_dim": FFN, "activation": "gelu"})
    given = {"x": x, "memory": memory, "memory_mask": mask}
    return Comparison(module, weights_of(theirs, **names), given, {"output": numpy(output)})


@peer("Encoder", "transformers BertModel")
def bert(rng: np.random.Generator) -> Comparison:
    config = BertConfig(
        vocab_size=17,
        hidden_size=EMBED,
        num_attention_heads=HEADS,
        num_hidden_layers=2,
        intermediate_size=FFN,
        max_position_embeddings=11,
    )
    theirs = BertModel(eager(config)).double().eval()
    randomise(theirs, rng)
    tokens = rng.integers(0, 17, (BATCH, QUERY))
    mask = seeing(rng, BATCH, 1, 1, QUERY)
    found = theirs(t(tokens), attention_mask=t(mask[:, 0, 0]).long(), output_attentions=True)
    state = {name: numpy(x) for name, x in theirs.state_dict().items()}
    weights, _ = convert(state, "hf.bert", "torch_attention")
    sizes = {**SELF, "vocab_size": 17, "num_layers": 2, "ffn_dim": FFN, "max_len": 11}
    expected = {"output": found.last_hidden_state, "pooled": found.pooler_output}
    expected |= {f"weights.{n}": x for n, x in enumerate(found.attentions)}
    return Comparison(
        Part("Encoder", {"config": Part("EncoderConfig", sizes)}),
        weights,
        {"tokens": tokens.astype(np.int32), "mask": mask, "need_weights": True},
        {name: numpy(x) for name, x in expected.items()},
    )


@peer("Decoder", "transformers GPT2LMHeadModel")
def gpt2_model(rng: np.random.Generator) -> Comparison:
    config = GPT2Config(
        vocab_size=17,
        n_embd=EMBED,
        n_head=HEADS,
        n_layer=2,
        n_inner=FFN,
        n_positions=11,
        bos_token_id=None,
        eos_token_id=None,
    )
    theirs = GPT2LMHeadModel(eager(config)).double().eval()
    randomise(theirs, rng)
    tokens = rng.integers(0, 17, (BATCH, QUERY))
    mask = seeing(rng, BATCH, 1, 1, QUERY)
    found = theirs(
        t(tokens),
        attention_mask=t(mask[:, 0, 0]).long(),
        position_ids=torch.arange(QUERY)[None],
        output_attentions=True,
    )
    state = {name: numpy(x) for name, x in theirs.state_dict().items()}
    weights, _ = convert(state, "hf.gpt2", "torch_attention")
    sizes = {**SELF, "vocab_size": 17, "num_layers": 2, "ffn_dim": FFN, "max_len": 11}
    expected = {"output": found.logits}
    expected |= {f"weights.{n}": x for n, x in enumerate(found.attentions)}
    return Comparison(
        Part("Decoder", {"config": Part("DecoderConfig", sizes)}),
        weights,
        {"tokens": tokens.astype(np.int32), "mask": mask, "need_weights": True},
        {name: numpy(x) for name, x in expected.items()},
    )
