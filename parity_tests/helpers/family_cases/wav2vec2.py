"""Tiny models of wav2vec 2.0."""

import transformers as t

from parity_tests.helpers.family_cases.case import sound_cases

MODULES = ("wav2vec2",)
WITHOUT_HEAD = ("Wav2Vec2ForXVector",)
CASES = sound_cases("wav2vec2", t.Wav2Vec2Model, t.Wav2Vec2Config)
