"""Text to tokens fast and in bounded memory, by remembering the tokens of words.

A byte-level BPE joins no token across the space before a word, and words repeat (Zipf's law):
each is encoded by the library once and looked up ever after, several times faster, with the
same tokens.

cache = WordCache(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
for tokens in encode_stream(clean_lines(lines), cache, end=0):  # uint16 arrays, bounded
    tokens.tofile(file)
"""

import re
from array import array
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

Encode = Callable[[str], list[int]]

# Unicode's white space as the tokenizer's regex knows it; Python's \s has four signs more.
_SPACE = r"\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_INLINE = _SPACE.replace(r"\t-\r", r"\t\x0b-\r")
# A run of spaces; a Russian word before a sign or a space, which has ended for sure; whatever
# else stands between spaces, with one space before it; what is left.
_WORDS = re.compile(
    rf"[{_INLINE}]{{2,}}|"
    rf" ?[А-Яа-яЁё]++(?=[,.;:!?»…)—\-{_SPACE}]|\Z)|"
    rf" ?[^{_SPACE}]+|[{_INLINE}]|\n"
)
_LONG = 64  # characters; longer words do not come again
_PROBE = "Он вышел вон… — «Да-с!»\n\n\tВ  1799-м году; ёлка?..\n Mon cher Évariste,  "


class WordCache:
    """Encodes like ``encode``, remembering at most ``size`` words before it starts anew.

    Raises ValueError for a tokenizer whose tokens depend on more than the word they are in.
    """

    def __init__(self, encode: Encode, size: int = 2**19) -> None:
        self._encode, self._size = encode, size
        self._words: dict[str, bytes] = {}
        self._line_break = encode("\n")
        if len(self._line_break) != 1 or self(_PROBE).tolist() != encode(_PROBE):
            raise ValueError("this tokenizer's tokens depend on more than the word they are in")

    def __call__(self, text: str) -> NDArray[np.uint16]:
        """Return the tokens of ``text`` (N,), those that ``encode(text)`` returns."""
        words = _WORDS.findall(text)
        known = self._words
        new = set(words).difference(known)
        if len(known) + len(new) > self._size:
            known.clear()
            new = set(words)
        self._learn(list(new))
        tokens = np.frombuffer(b"".join(map(known.__getitem__, words)), dtype=np.uint16)
        for word in new:
            if len(word) > _LONG:
                del known[word]
        return tokens

    def _learn(self, words: list[str]) -> None:
        """Encode the words in one call, a line each: a call costs more than a word."""
        if "\n" in words:
            words.remove("\n")
            self._words["\n"] = _pack(self._line_break)
        if not words:
            return
        (end,) = self._line_break
        lines: list[list[int]] = [[]]
        for token in self._encode("\n".join(words)):
            if token == end:
                lines.append([])
            else:
                lines[-1].append(token)
        if len(lines) != len(words):  # a line break is not always that token: no batch, then
            lines = [self._encode(word) for word in words]
        self._words.update(zip(words, map(_pack, lines), strict=True))


def _pack(tokens: list[int]) -> bytes:
    assert max(tokens, default=0) < 2**16, f"token {max(tokens)} does not fit 16 bits"
    return array("H", tokens).tobytes()


def encode_stream(
    paragraphs: Iterable[str], cache: WordCache, *, end: int | None = None, block: int = 2**16
) -> Iterator[NDArray[np.uint16]]:
    """Yield the tokens of the paragraphs joined by line breaks, about ``block`` letters an array.

    Together they are the tokens of ``"\\n".join(paragraphs)``, then ``end`` if it is given. In
    memory there are one block and one paragraph.
    """
    lines: list[str] = []
    letters = 0
    for paragraph in paragraphs:
        lines.append(paragraph)
        letters += len(paragraph) + 1
        if letters >= block:
            yield cache("\n".join(lines))
            lines, letters = [""], 0  # the break between this block and the next
    if lines not in ([], [""]):
        yield cache("\n".join(lines))
    if end is not None:
        yield np.array([end], dtype=np.uint16)
