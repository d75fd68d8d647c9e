"""Whole models."""

from functools import partial

from attention_bridge import oracles
from attention_bridge.catalogue.mechanism import SIZES, Mechanism, Part
from attention_bridge.catalogue.shared import DEVLIN, EMBED, FFN, HEADS, HEADS_SELF

ENCODER_SIZES = {
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
        module=Part("Encoder", {"config": Part("EncoderConfig", ENCODER_SIZES)}),
        inputs={},
        tokens={"tokens": ("batch", "query")},
        masks=HEADS_SELF,
        oracle=partial(oracles.encoder, num_heads=HEADS, num_layers=2),
        native="encoder",
        peers=("transformers BertModel",),
    ),
)
