"""Loading and saving of pretrained Hugging Face models in either mirror.

model = load_pretrained("path/to/gpt2", framework="jax")
logits = model(tokens).logits
save_pretrained(model, "elsewhere")  # the same names and files
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attention_bridge.pretrained.adapters import apply_adapter as apply_adapter
    from attention_bridge.pretrained.adapters import read_adapter as read_adapter
    from attention_bridge.pretrained.adapters import save_adapter as save_adapter
    from attention_bridge.pretrained.conversion import convert_checkpoint as convert_checkpoint
    from attention_bridge.pretrained.inspection import inspect as inspect
    from attention_bridge.pretrained.load import Pretrained as Pretrained
    from attention_bridge.pretrained.load import load_pretrained as load_pretrained
    from attention_bridge.pretrained.load import make_model as make_model
    from attention_bridge.pretrained.load import read_pretrained as read_pretrained
    from attention_bridge.pretrained.save import save_pretrained as save_pretrained
    from attention_bridge.pretrained.text import TextModel as TextModel
    from attention_bridge.pretrained.text.tokenizer import Tokenizer as Tokenizer

# Public names and their modules; a module is imported at the first access to a name.
PUBLIC = {
    "Pretrained": "attention_bridge.pretrained.load",
    "TextModel": "attention_bridge.pretrained.text",
    "Tokenizer": "attention_bridge.pretrained.text.tokenizer",
    "apply_adapter": "attention_bridge.pretrained.adapters",
    "convert_checkpoint": "attention_bridge.pretrained.conversion",
    "inspect": "attention_bridge.pretrained.inspection",
    "load_pretrained": "attention_bridge.pretrained.load",
    "make_model": "attention_bridge.pretrained.load",
    "read_adapter": "attention_bridge.pretrained.adapters",
    "read_pretrained": "attention_bridge.pretrained.load",
    "save_adapter": "attention_bridge.pretrained.adapters",
    "save_pretrained": "attention_bridge.pretrained.save",
}
__all__ = list(PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(PUBLIC[name]), name)
