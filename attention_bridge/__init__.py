"""The bridge between `torch_attention` and `jax_attention`: weights, checkpoints, proofs, pictures, a command.

| function | does |
|---|---|
| `transfer(source, target)` | carries the weights of a model into a model of either framework |
| `convert(source, target, ...)` | converts a checkpoint from one layout and format to another |
| `explain(report)` | says in words what a conversion did |
| `load_pretrained(source, framework)` | reads a Hugging Face directory into a ready model of either framework |
| `save_pretrained(model, directory)` | writes a model as a directory that `load_pretrained` or transformers reads |
| `inspect(path)` | says what a checkpoint holds |
| `compare(one, other, inputs)` | compares the outputs and gradients of two modules |
| `assert_parity(one, other, inputs)` | raises unless they are equal |
| `diagnose(port, ...)` | names the slip in a port that gives other numbers |
| `plot(weights, output)` | draws attention weights as a page or a picture |

Each is imported when it is first asked for; neither framework is needed to import this package.
"""

from collections.abc import Callable
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from attention_bridge.weights.configured import read_with

if TYPE_CHECKING:
    from attention_bridge.doctor import diagnose as diagnose
    from attention_bridge.parity import assert_parity as assert_parity
    from attention_bridge.parity import compare as compare
    from attention_bridge.plots import plot as plot
    from attention_bridge.pretrained import inspect as inspect
    from attention_bridge.pretrained import load_pretrained as load_pretrained
    from attention_bridge.pretrained import save_pretrained as save_pretrained
    from attention_bridge.pretrained.conversion import convert_checkpoint as convert
    from attention_bridge.weights import explain as explain
    from attention_bridge.weights import transfer as transfer

# The public names, each in its module under its name there; a module is imported when its name is asked for.
PUBLIC = {
    "assert_parity": ("attention_bridge.parity", "assert_parity"),
    "compare": ("attention_bridge.parity", "compare"),
    "convert": ("attention_bridge.pretrained.conversion", "convert_checkpoint"),
    "diagnose": ("attention_bridge.doctor", "diagnose"),
    "explain": ("attention_bridge.weights", "explain"),
    "inspect": ("attention_bridge.pretrained", "inspect"),
    "load_pretrained": ("attention_bridge.pretrained", "load_pretrained"),
    "plot": ("attention_bridge.plots", "plot"),
    "save_pretrained": ("attention_bridge.pretrained", "save_pretrained"),
    "transfer": ("attention_bridge.weights", "transfer"),
}
__all__ = [
    "__version__",
    "assert_parity",
    "compare",
    "convert",
    "diagnose",
    "explain",
    "inspect",
    "load_pretrained",
    "plot",
    "save_pretrained",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return metadata.version("attention-bridge")
    if name not in PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, own_name = PUBLIC[name]
    return getattr(import_module(module), own_name)


def _families() -> Callable[..., Any]:
    """The reader of configurations; families know the layouts of weights, so that these cannot import it."""
    found: Callable[..., Any] = import_module("attention_bridge.pretrained.families").read_config
    return found


read_with(_families)
