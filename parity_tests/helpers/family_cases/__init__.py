"""Tiny models of families, one module per family.

Each module has `CASES`, at least six odd configurations by name, of which the first is the plain one, and `MODULES`,
the modules of transformers with the family's classes. It may have `WITHOUT_HEAD`, classes whose head the mirrors do
not have, and `ALONE`, layouts of parts of the model. A new module is found without an entry elsewhere.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType

from parity_tests.helpers.family_cases.case import Case


@cache
def added() -> tuple[ModuleType, ...]:
    """The modules of this folder that describe a family."""
    names = sorted(each.name for each in iter_modules(__path__) if each.name != "case")
    return tuple(import_module(f"{__name__}.{name}") for name in names)


def added_cases() -> dict[str, dict[str, Case]]:
    """The cases of each module, by its name."""
    return {module.__name__.rpartition(".")[2]: module.CASES for module in added()}
