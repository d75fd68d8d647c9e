"""Tiny models of HuBERT."""

import transformers as t

from parity_tests.helpers.family_cases.case import SOUND, Case, sound_cases

MODULES = ("hubert",)
CASES = sound_cases("hubert", t.HubertModel, t.HubertConfig)
CASES["hubert without a norm of frames"] = Case(
    "hf.wav2vec2",
    "sound",
    t.HubertModel,
    t.HubertConfig,
    {**SOUND, "feat_proj_layer_norm": False, "hidden_act": "relu"},
)
