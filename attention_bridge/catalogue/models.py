"""Entries of whole models."""

from functools import partial

from attention_bridge import oracles
from attention_bridge.catalogue.mechanism import SIZES, Mechanism
from attention_bridge.catalogue.part import Part
from attention_bridge.catalogue.shared import DEVLIN, EMBED, FFN, HEADS, HEADS_SELF, RADFORD_2019

MODEL_SIZES = {
    "vocab_size": SIZES["vocab"],
    "embed_dim": EMBED,
    "num_heads": HEADS,
    "num_layers": 2,
    "ffn_dim": FFN,
    "max_len": SIZES["max_len"],
}

MODELS = (
    Mechanism(
        name="Encoder",
        family="models",
        file="models/encoder.py",
        paper=DEVLIN,
        equation=r"x \leftarrow \mathrm{norm}(x + f(x)), \quad f = \mathrm{self}, \mathrm{ffn}",
        module=Part("Encoder", {"config": Part("EncoderConfig", MODEL_SIZES)}),
        inputs={},
        tokens={"tokens": ("batch", "query")},
        masks=HEADS_SELF,
        oracle=partial(oracles.encoder, num_heads=HEADS, num_layers=2),
        native="encoder",
        peers=("transformers BertModel",),
    ),
    Mechanism(
        name="Decoder",
        family="models",
        file="models/decoder.py",
        paper=RADFORD_2019,
        equation=r"x \leftarrow x + f(\mathrm{norm}(x)), \quad f = \mathrm{causal\ self}, \mathrm{ffn}",
        module=Part("Decoder", {"config": Part("DecoderConfig", MODEL_SIZES)}),
        inputs={},
        tokens={"tokens": ("batch", "query")},
        masks=HEADS_SELF,
        oracle=partial(oracles.decoder, num_heads=HEADS, num_layers=2),
        causal=True,
        native="decoder",
        decoding="caches",
        peers=("transformers GPT2LMHeadModel",),
    ),
)
