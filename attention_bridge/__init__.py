"""The bridge between `torch_attention` and `jax_attention`: weights, checkpoints, parity tests, plots and a command.

| function | does |
|---|---|
| `transfer(source, target)` | copies the weights of a model into a model of either framework |
| `draft_layout(a, b)` | proposes the layout between two models that no table knows |
| `convert(source, target, ...)` | converts a checkpoint from one layout and format to another |
| `explain(report)` | describes a conversion in words |
| `load_pretrained(source, framework)` | loads a Hugging Face directory as a model of either framework |
| `save_pretrained(model, directory)` | saves a model as a directory for `load_pretrained` or transformers |
| `inspect(path)` | lists the contents of a checkpoint |
| `compare(one, other, inputs)` | compares the outputs and gradients of two modules |
| `assert_parity(one, other, inputs)` | raises unless outputs and gradients agree |
| `certify(one, other, inputs)` | compares two modules and returns the figures as a certificate |
| `diagnose(port, ...)` | finds the mistake in a port whose outputs differ |
| `plot(weights, output)` | plots attention weights as a page or a picture |

Each function is imported on first use; importing this package needs neither framework.
"""

from collections.abc import Callable
from importlib import import_module, metadata
from typing import TYPE_CHECKING, Any

from attention_bridge.weights.configured import read_with

if TYPE_CHECKING:
    from attention_bridge.doctor import diagnose as diagnose
    from attention_bridge.parity import assert_parity as assert_parity
    from attention_bridge.parity import certify as certify
    from attention_bridge.parity import compare as compare
    from attention_bridge.plots import plot as plot
    from attention_bridge.pretrained import inspect as inspect
    from attention_bridge.pretrained import load_pretrained as load_pretrained
    from attention_bridge.pretrained import save_pretrained as save_pretrained
    from attention_bridge.pretrained.conversion import convert_checkpoint as convert
    from attention_bridge.weights import draft_layout as draft_layout
    from attention_bridge.weights import explain as explain
    from attention_bridge.weights import transfer as transfer

# Module and name of each public name; the module is imported on first access.
PUBLIC = {
    "assert_parity": ("attention_bridge.parity", "assert_parity"),
    "certify": ("attention_bridge.parity", "certify"),
    "compare": ("attention_bridge.parity", "compare"),
    "convert": ("attention_bridge.pretrained.conversion", "convert_checkpoint"),
    "diagnose": ("attention_bridge.doctor", "diagnose"),
    "draft_layout": ("attention_bridge.weights", "draft_layout"),
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
    "certify",
    "compare",
    "convert",
    "diagnose",
    "draft_layout",
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
    """The reader of configurations, imported late because `families` itself imports the weight layouts."""
    found: Callable[..., Any] = import_module("attention_bridge.pretrained.families").read_config
    return found


read_with(_families)
