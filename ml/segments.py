"""Cuts works into segments for telling authors apart, and says whose works are held out for it.

A segment is about as long as a generation. ``plain`` takes from it what tells the edition or the
plot and not the hand: the shape of quotes and dashes, ё, names, numbers, foreign words.
"""

import re
import sys
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from ml.corpus import PROSE, Work
from ml.quotation import uniform

_TOKEN = re.compile(r"\w+")
_LOWER = re.compile(r"[а-я]+")
_UPPER = re.compile(r"[А-Я][а-я]*")
_NOT_KEPT = re.compile(r"[^а-яX ,.;:!?-]")
_SENTENCE_GAP = re.compile(r"(?<=[.!?…»])\s+|\n")

SEGMENT = 1000  # characters; a segment ends with the first sentence that reaches it


class SplitError(ValueError):
    """A split that does not say whose works are held out: the message says why."""


def plain(text: str, *, mask: bool = True) -> str:
    """Return lower-case Russian with ``X`` for every other word, and without quotation marks.

    With ``mask`` every capitalised word is an ``X`` too, those that begin a sentence included:
    there a hero's name cannot be told from a common word.

    >>> plain("«Ещё Герман!» — сказал 1 из гостей…")
    'X X! - сказал X из гостей...'
    """

    def hide(match: re.Match[str]) -> str:
        word = match[0]
        if _LOWER.fullmatch(word):
            return word
        return word.lower() if not mask and _UPPER.fullmatch(word) else "X"

    return " ".join(_NOT_KEPT.sub("", _TOKEN.sub(hide, uniform(text))).split())


def cut(text: str, length: int = SEGMENT) -> list[str]:
    """Cut a text at ends of sentences into segments of at least ``length`` characters.

    None is longer than one and a half times ``length``; a last one under half of it is dropped.
    """
    segments, sentences, size = [], [], 0
    for sentence in _SENTENCE_GAP.split(text):
        sentences.append(sentence)
        size += len(sentence) + 1
        if size > length:
            segments.append(" ".join(sentences)[: length * 3 // 2])
            sentences, size = [], 0
    if size > length / 2:
        segments.append(" ".join(sentences))
    return segments


def sample(works: Sequence[Work], limit: int, length: int = SEGMENT) -> list[str]:
    """Return at most ``limit`` segments of the works: as many of each as it has and its share
    allows, spread evenly over it, so that one long novel is not all there is."""
    queue = sorted((cut(work.text, length) for work in works), key=len)
    chosen: list[str] = []
    for position, segments in enumerate(queue):
        take = min(len(segments), (limit - len(chosen)) // (len(queue) - position))
        chosen += [segments[place * len(segments) // take] for place in range(take)]
    return chosen


def shelves(works: Iterable[Work]) -> dict[str, list[Work]]:
    """Return each author's prose. An author is the table's, not the folder: one of travels
    holds several."""
    found: dict[str, list[Work]] = defaultdict(list)
    for work in works:
        if work.genre in PROSE:
            found[work.author].append(work)
    return dict(found)


def target_of(works: Iterable[Work], split: Mapping[str, Iterable[str]]) -> str:
    """Return the one author whose prose the split holds out. Raises SplitError."""
    files = {file for part in split.values() for file in part}
    names = {work.author for work in works if work.file in files and work.genre in PROSE}
    if len(names) != 1:
        held = ", ".join(sorted(names)) or "nobody"
        raise SplitError(f"the split must hold out prose of one author, not of {held}")
    return names.pop()


def held_out(works: Sequence[Work], split: Mapping[str, Iterable[str]]) -> set[str]:
    """Return the files that telling authors apart must not learn from.

    Of the target those of the split; of any other author with his works in order of length the
    third of every five (of two the shorter, of three or four the second), never the longest.
    """
    target = target_of(works, split)
    files = {file for part in split.values() for file in part}
    for author, shelf in shelves(works).items():
        if author != target:
            shelf = sorted(shelf, key=lambda work: (len(work.text), work.file))
            files |= {work.file for work in shelf[min(2, (len(shelf) - 1) // 2) : -1 : 5]}
    return files


def unseen(
    works: Iterable[Work],
    files: Collection[str],
    target: str,
    per_author: int,
    length: int = SEGMENT,
) -> dict[str, list[str]]:
    """Return ``{author: segments of those of his works that are among files}``.

    All of the target's, at most ``per_author`` of anybody else's; an author without is left out.
    """
    found = {}
    for author, shelf in shelves(works).items():
        limit = sys.maxsize if author == target else per_author
        if segments := sample([work for work in shelf if work.file in files], limit, length):
            found[author] = segments
    return found
