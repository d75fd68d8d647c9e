"""Text of tokens as they are generated, in whole characters."""

from __future__ import annotations

from attention_bridge.pretrained.text.tokenizer import Tokenizer

INCOMPLETE = "\ufffd"  # decoded for the bytes of a character whose other bytes are in later tokens


class TextStream:
    """Converts tokens to text one at a time; the pieces joined are the text of all tokens.

    A token is decoded after the tokens of the piece before, since a decoder may drop a leading space.

    Args:
        tokenizer: tokenizer of the model.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.tokens: list[int] = []
        self.start = 0  # first token of the piece before
        self.end = 0  # first token that is not printed

    def push(self, token: int) -> str:
        """Add a token; return the new text, empty while a character is incomplete."""
        self.tokens.append(token)
        found = self._new()
        if not found or found.endswith(INCOMPLETE):
            return ""
        self.start, self.end = self.end, len(self.tokens)
        return found

    def finish(self) -> str:
        """The text that is left, with a replacement character for an incomplete one."""
        return self._new()

    def _new(self) -> str:
        before = self.tokenizer.decode(self.tokens[self.start : self.end])
        return self.tokenizer.decode(self.tokens[self.start :])[len(before) :]
