"""From a story to Telegram's messages: text with entities, so that no sign needs escaping.

Lengths are in UTF-16 code units, as Telegram counts them.
"""

import re
import unicodedata
from dataclasses import dataclass

from aiogram.types import MessageEntity

LIMIT = 4096  # units in a message

# Where a long text is cut, the best first: after a paragraph, a sentence, a word.
_SEAMS = (re.compile(r"\n+"), re.compile(r"(?<=[.!?…»])\s+"), re.compile(r"\s+"))


@dataclass(frozen=True)
class Part:
    """One message of a story."""

    text: str
    entities: list[MessageEntity]


def units(text: str) -> int:
    """Return the text's length in UTF-16 code units."""
    return len(text.encode("utf-16-le")) // 2


def clean(text: str) -> str:
    """Return a reader's text without control characters and broken surrogates, trimmed."""
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return "".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc").strip()


def story_parts(prompt: str, text: str, limit: int = LIMIT) -> list[Part]:
    """Lay a story out: the reader's words in bold, then the model's, in messages that fit."""
    whole = f"{prompt}{text}".rstrip() if prompt else text.strip()
    parts, start = [], 0
    for piece in split(whole, limit):
        start = whole.index(piece, start)
        bold = prompt[start : start + len(piece)]
        entity = MessageEntity(type="bold", offset=0, length=units(bold))
        parts.append(Part(piece, [entity] if bold.strip() else []))
        start += len(piece)
    return parts


def split(text: str, limit: int = LIMIT) -> list[str]:
    """Cut a text into pieces of at most ``limit`` units; only white space at a seam is lost."""
    pieces = []
    rest = text.strip()
    while units(rest) > limit:
        head = _head(rest, limit)
        # A seam in the first third would leave a stub: the next kind of seam is better then.
        cut = next(
            (
                seams[-1]
                for pattern in _SEAMS
                if (seams := [m.start() for m in pattern.finditer(head)])
                and seams[-1] > len(head) // 3
            ),
            len(head),
        )
        pieces.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    return [*pieces, rest] if rest else pieces


def shorten(text: str, limit: int) -> str:
    """Return the text, or as many of its sentences as fit into ``limit`` units, and an ellipsis."""
    pieces = split(text, limit)
    if len(pieces) < 2:
        return "".join(pieces)
    return f"{split(text, limit - 2)[0]} …"


def decimal(value: float, digits: int, language: str) -> str:
    """Return a number as the language writes it: 2,31 in Russian."""
    written = f"{value:.{digits}f}"
    return written.replace(".", ",") if language == "ru" else written


def _head(text: str, limit: int) -> str:
    """Return the longest beginning of at most ``limit`` units, no pair of surrogates broken."""
    return text.encode("utf-16-le")[: 2 * limit].decode("utf-16-le", "ignore")
