"""Tiny models of UniSpeech-SAT."""

import transformers as t

from parity_tests.helpers.family_cases.case import sound_cases

MODULES = ("unispeech_sat",)
WITHOUT_HEAD = ("UniSpeechSatForXVector",)
CASES = sound_cases("unispeech-sat", t.UniSpeechSatModel, t.UniSpeechSatConfig)
