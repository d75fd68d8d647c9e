"""Print `docs/rosetta.md`."""

from attention_bridge.rosetta.page import page

if __name__ == "__main__":
    print(page())
