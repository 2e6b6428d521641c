"""Tokens into pieces of text as they come, whatever a model draws.

detokenizer = Detokenizer(Tokenizer.from_file("…/tokenizer.json"))
text = "".join(detokenizer.step(token) for token in tokens)
"""

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream


class Detokenizer:
    """One story's; bytes that are no letter come to nothing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)

    def step(self, token: int) -> str:
        """Return what the token completes, often a word, or nothing."""
        try:
            piece = self._stream.step(self._tokenizer, token)
        # The library raises nothing narrower, where a tokenizer with a token a byte (Llama's) is
        # given bytes that are no letter, and then again at every further token.
        except Exception:
            self._stream = DecodeStream(skip_special_tokens=True)
            piece = None
        return (piece or "").replace("\ufffd", "")
