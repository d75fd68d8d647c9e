"""Layouts for weight conversion, by name.

Each module has one or more tables as constants, instances of `Layout`. A new module is found without an entry here.
"""

from importlib import import_module
from pkgutil import iter_modules

from attention_bridge.weights.layout import Layout

LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for module in sorted(each.name for each in iter_modules(__path__))
    for layout in vars(import_module(f"{__name__}.{module}")).values()
    if isinstance(layout, Layout)
}

__all__ = ["LAYOUTS"]
