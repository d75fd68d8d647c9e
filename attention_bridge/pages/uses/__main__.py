"""Print `docs/uses.md`: `python -m attention_bridge.pages.uses [mechanism ...]`."""

import sys
import warnings

from attention_bridge.catalogue import select
from attention_bridge.pages.uses.page import page

if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print(page(select(sys.argv[1:])), end="")
