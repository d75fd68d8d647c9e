"""Text in, text out: models with their tokenizers, for `generate`, `embed`, `fill-mask` and `classify`.

model = TextModel.open("path/to/bert", framework="jax")
predictions = fill_mask(model, "Paris is the [MASK] of France.")
"""

from attention_bridge.pretrained.text.answers import answer as answer
from attention_bridge.pretrained.text.classification import classify as classify
from attention_bridge.pretrained.text.classification import label_tokens as label_tokens
from attention_bridge.pretrained.text.embedding import embed as embed
from attention_bridge.pretrained.text.generation import Settings as Settings
from attention_bridge.pretrained.text.generation import generate as generate
from attention_bridge.pretrained.text.masked import fill_mask as fill_mask
from attention_bridge.pretrained.text.model import TextModel as TextModel
