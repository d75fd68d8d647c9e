"""Readers of configurations, one module per family or group of families.

Each module has `FAMILIES`, a tuple of `Family`. A new module is found without an entry elsewhere.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from attention_bridge.pretrained.families.family import Family

FAMILIES: dict[str, Family] = {
    model_type: family
    for module in sorted(each.name for each in iter_modules(__path__))
    for family in import_module(f"{__name__}.{module}").FAMILIES
    for model_type in family.model_types
}

__all__ = ["FAMILIES"]
