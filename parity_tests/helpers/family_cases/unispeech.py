"""Tiny models of UniSpeech."""

import transformers as t

from parity_tests.helpers.family_cases.case import sound_cases

MODULES = ("unispeech",)
CASES = sound_cases("unispeech", t.UniSpeechModel, t.UniSpeechConfig)
